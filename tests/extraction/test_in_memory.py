"""A model in memory is read as it is, and left as it was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import save_tokenizer, tiny_config

from llmprobe import ConceptDataset, UserError, extract, probe, trace
from llmprobe.config.load import validated
from llmprobe.config.schema import RunConfig
from llmprobe.ground.files import cache_folder

TEXTS = ["the capital city of Peru is Lima", "Paris is the capital", "a coin flips", "a coin"]
DATASET = ConceptDataset("four", TEXTS, [0, 1, 0, 1])


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path / "tokenizer", bos=True)
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def with_head(architecture: str) -> Any:
    """A model with a head over tiny random weights, in train mode."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    kind = AutoModelForMaskedLM if architecture == "bert" else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind.from_config(tiny_config(architecture)).train()


def plain_states(model: Any, tokenizer: Any) -> np.ndarray:
    """The model's own hidden states at the last token of each text. -> [layers, n, d]"""
    with torch.inference_mode():
        rows = [
            torch.cat(
                model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
                .hidden_states[:-1]
            )[:, -1]
            for text in TEXTS
        ]  # fmt: skip
    return torch.stack(rows, dim=1).numpy()


def hooks(model: Any) -> int:
    """How many hooks a model has; transformers adds some when states are asked for."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "bert", "mixtral", "gpt_neox"])
def test_the_states_are_the_models_own_and_it_trains_on_as_before(
    architecture: str, tokenizer: Any
) -> None:
    model = with_head(architecture)
    plain_states(model, tokenizer)
    with_its_own = hooks(model)
    model.base_model.get_input_embeddings().eval()  # Parts can differ.
    modes = [part.training for part in model.modules()]
    seen: list[int] = []
    hook = model.base_model.register_forward_hook(lambda *_: seen.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    activations = extract(model, DATASET, tokenizer=tokenizer, progress=False)
    assert seen
    hook.remove()
    assert [part.training for part in model.modules()] == modes
    assert hooks(model) == with_its_own
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weights.requires_grad and weights.grad is None for weights in model.parameters())
    loss = model(**tokenizer(TEXTS[0], return_tensors="pt"), use_cache=False).logits.sum()
    loss.backward()
    model.eval()
    own = plain_states(model, tokenizer)
    for layer in activations.layers[: len(own)]:
        np.testing.assert_allclose(activations.layer(layer), own[layer], rtol=1e-5, atol=1e-5)
    assert activations.facts["model"] == type(model.base_model).__name__


def test_an_adapter_that_is_not_merged_is_read_with_the_model(tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        with_head("llama"), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    states = extract(model, DATASET, tokenizer=tokenizer, progress=False)
    own = plain_states(model.eval(), tokenizer)
    np.testing.assert_allclose(states.layer(2), own[2], rtol=1e-5, atol=1e-5)


def test_only_a_model_with_a_name_is_kept_and_found_for_the_same_weights(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_head("llama")
    extract(model, DATASET, tokenizer=tokenizer, progress=False)
    assert not (cache_folder() / "activations").exists()

    def named() -> np.ndarray:
        return extract(
            model, DATASET, tokenizer=tokenizer, name="mine-step-500", progress=False
        ).layer(3)

    first = named()
    kept = {path.name for path in (cache_folder() / "activations").iterdir()}
    assert all(name.startswith("mine-step-500-four-") for name in kept)
    fill = "llmprobe.extraction.extract.Extractor._fill"
    with monkeypatch.context() as patched:
        patched.setattr(fill, lambda *_: pytest.fail("extracted again"))
        assert np.array_equal(named(), first)
    with torch.no_grad():
        model.base_model.layers[0].mlp.up_proj.weight[0, 0] += 1
    assert not np.array_equal(named(), first)


def test_a_probe_of_a_model_in_memory_traces_with_that_alone(
    tokenizer: Any, tmp_path: Path
) -> None:
    model = with_head("llama")
    activations = extract(model, DATASET, tokenizer=tokenizer, progress=False)
    results = probe(activations, folds=2, l2=1, controls=[], permutations=0, progress=False)
    path = results.probes[0].save(tmp_path / "probe.safetensors")
    (made,) = trace(path, TEXTS[0], model=model, tokenizer=tokenizer)
    expected = results.probes[0].predict_proba(activations.layer(3), 3)[0, 1]
    assert made.scores[made.layers.index(3), -1] == pytest.approx(expected, abs=1e-5)
    assert model.training
    with pytest.raises(UserError, match=r"its model 'LlamaModel' was one in memory; give that"):
        trace(path, TEXTS[0])


def refusals(model: Any, tokenizer: Any, folder: Path) -> list[tuple[Callable[[], object], str]]:
    return [
        (lambda: extract(model, DATASET), "needs its tokenizer"),
        (lambda: extract(model, DATASET, tokenizer="smollm2-135m"), "needs its tokenizer"),
        (lambda: extract(torch.nn.Linear(2, 2), DATASET), "not a model of transformers"),
        (lambda: extract(model.double(), DATASET, tokenizer=tokenizer), "is in float64 on cpu"),
        (lambda: extract(model, DATASET, tokenizer=tokenizer, dtype="float32"), "in its own"),
        (lambda: extract("x", DATASET, tokenizer=tokenizer), "an object goes with a model in mem"),
        (lambda: extract(tokenizer, DATASET), "the model is of the type 'TokenizersBackend'"),
        (lambda: trace(model, "a text"), "'LlamaForCausalLM' is no probe"),
        (lambda: trace(folder, "a text"), "is a folder; a probe is one .safetensors file"),
        (lambda: trace(folder, "a text", model=[model]), "the model is of the type 'list'"),
        (lambda: probe(model), "probe: 'LlamaForCausalLM' is no activations"),
        (
            lambda: validated(RunConfig, {"models": [model], "datasets": ["capitals"]}, "x"),
            "an object of the type 'LlamaForCausalLM' is not allowed",
        ),
        (
            lambda: validated(RunConfig, {"models": [{"id": model}], "datasets": ["x"]}, "x"),
            "an object of the type 'LlamaForCausalLM' is not allowed",
        ),
    ]


@pytest.mark.parametrize("case", range(13))
def test_what_cannot_be_read_is_one_sentence_without_the_models_tree(
    case: int, tokenizer: Any, tmp_path: Path
) -> None:
    call, said = refusals(with_head("llama"), tokenizer, tmp_path)[case]
    with pytest.raises(UserError, match=said) as refused:
        call()
    assert "q_proj" not in str(refused.value)
    assert str(refused.value).count("\n") == 0
