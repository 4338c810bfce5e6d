"""Golden examples: what a probe made of some of its own texts, for engines to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from probes import fit
from toy import write_table
from transformers import AutoModel, AutoTokenizer

import llmprobe
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.results.saved_probe import SavedProbe, load_probe


@pytest.fixture
def dataset(tmp_path: Path) -> ConceptDataset:
    return llmprobe.load_dataset(write_table(tmp_path / "toy.csv"))


@torch.inference_mode()
def plain_logits(probe: SavedProbe, folder: Path) -> list[np.ndarray]:
    """By nothing but transformers: the model, its hidden states, and the probe's numbers."""
    module = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    logits = []
    for example in probe.golden:
        states: list[torch.Tensor] = []
        block = next(m for m in module.modules() if isinstance(m, torch.nn.ModuleList))
        layer = example.layer
        hook = block[max(layer - 1, 0)].register_forward_hook(
            lambda _, args, out, states=states: states.append(
                args[0] if layer == 0 else out[0] if isinstance(out, tuple) else out  # noqa: B023
            )
        )
        module(input_ids=torch.tensor([example.token_ids]))
        hook.remove()
        state = states[0].reshape(len(example.token_ids), -1)[list(example.positions)].mean(dim=0)
        logits.append(probe.decision_function(state[None].numpy(), layer)[0])
    return logits


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", {}), ("gpt2", {}), ("mistral", {"position": "mean"}), ("bert", {}),
        ("gemma3", {"position": "first"}), ("bert", {"position": "mean"}),
    ],
)  # fmt: skip
def test_plain_transformers_finds_the_logits_of_the_golden_examples(
    tiny_model: Callable[..., Path], dataset: ConceptDataset, architecture: str, options
) -> None:
    folder = tiny_model(architecture, bos=True, eos=True)
    probe, _ = fit(folder, dataset, **options)
    assert len(probe.golden) == 8
    assert {example.layer for example in probe.golden} == {probe.best_layer}
    expected = [example.logit for example in probe.golden]
    assert plain_logits(probe, folder) == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 0 or options.get("position") == "first"


def test_golden_token_ids_are_those_that_the_model_was_given(
    tiny_model: Callable[..., Path], dataset: ConceptDataset, tmp_path: Path
) -> None:
    folder = tiny_model("llama", bos=True, eos=True)
    probe, _ = fit(folder, dataset)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own = [tuple(tokenizer(text)["input_ids"][:-1]) for text in dataset.texts]  # without EOS
    for example in load_probe(probe.save(tmp_path / "probe.safetensors")).golden:
        assert example.token_ids in own
        assert example.token_ids[0] == tokenizer.bos_token_id
        assert example.positions == (len(example.token_ids) - 1,)
        assert isinstance(example.logit, float)


def test_golden_examples_of_three_classes_have_a_logit_of_each(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    texts = [f"{word} is {color}" for word in ("coin", "city", "Peru", "France", "Bern", "Lima")
             for color in ("red", "green", "blue")]  # fmt: skip
    dataset = ConceptDataset("colors", texts, np.array(["red", "green", "blue"] * 6))
    probe, _ = fit(tiny_model("llama"), dataset)
    again = load_probe(probe.save(tmp_path / "probe.safetensors"))
    assert again.golden == probe.golden
    assert {len(example.logit) for example in again.golden} == {3}


def test_probes_of_arrays_have_none() -> None:
    rng = np.random.default_rng(0)
    results = llmprobe.probe_layers(
        {0: rng.normal(size=(40, 4))}, [0, 1] * 20, permutations=0, progress=False
    )
    assert results.probes[0].golden == ()
