"""``llmprobe verify``: whether an engine's states are the probe's, and how they differ if not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from probes import fit, save
from safetensors.torch import save_file
from toy import write_table
from transformers import AutoModel

import llmprobe
from llmprobe.cli.main import main
from llmprobe.results.saved_probe import GoldenExample, SavedProbe, load_probe

BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("gpt2", bos=True)


@pytest.fixture(scope="module")
def probe(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At the last layer, after which comes the norm that transformers includes there."""
    run = tmp_path_factory.mktemp("run")
    fitted, activations = fit(folder, llmprobe.load_dataset(write_table(run / "toy.csv")))
    last = fitted.layers[-1]
    rows = [text["row"] for text in activations.facts["golden"]]
    logits = fitted.decision_function(activations.layer(last)[rows], last).tolist()
    golden = tuple(
        replace(example, layer=last, logit=logit)
        for example, logit in zip(fitted.golden, logits, strict=True)
    )
    return save(replace(fitted, golden=golden), run)


@pytest.fixture
def golden(probe: Path) -> tuple[GoldenExample, ...]:
    return load_probe(probe).golden


@torch.inference_mode()
def engine(folder: Path, texts: Sequence[Sequence[int]], raw: bool = True) -> list[torch.Tensor]:
    """Another engine, namely plain transformers: the states of each text. [tokens, layers, d]"""
    module = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    states = []
    for text in texts:
        last: list[torch.Tensor] = []
        hook = module.h[-1].register_forward_hook(
            lambda _, __, out, last=last: last.append(out[0] if isinstance(out, tuple) else out)
        )
        of_layer = module(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states
        hook.remove()
        if raw:
            of_layer = [*of_layer[:-1], last[0].reshape(1, len(text), -1)]
        states.append(torch.stack([layer[0] for layer in of_layer], dim=1))
    return states


@pytest.fixture
def verify(probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """``verify(states)``: the code and what is printed of the states at the last tokens."""

    def verify(states: Sequence[torch.Tensor], *words: str) -> tuple[int, str]:
        """As rows of the last tokens in an .npz file."""
        layers = {f"layer_{i}": torch.stack([s[-1, i] for s in states]) for i in range(4)}
        np.savez(tmp_path / "s.npz", **{k: v.numpy() for k, v in layers.items()})
        code = main(["verify", str(probe), "--states", str(tmp_path / "s.npz"), *words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return verify


def test_the_probes_own_model_agrees(probe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(probe)]) == 0
    said = capsys.readouterr().out
    assert "layer 3, 8 golden examples" in said
    assert "they agree: differences are within the rounding of float32" in said


@pytest.mark.parametrize("options", [{"position": "mean"}, {"position": "first"}, {}])
@pytest.mark.parametrize("architecture", ["llama", "bert", "gemma3"])
def test_models_agree_with_their_own_examples_at_each_position(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    architecture: str,
    options: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset = llmprobe.load_dataset(write_table(tmp_path / "toy.csv"))
    model = tiny_model(architecture, bos=True, eos=True)
    probe, _ = fit(model, dataset, **options)
    assert main(["verify", str(save(probe, tmp_path))]) == 0
    assert "they agree" in capsys.readouterr().out


def test_another_engines_states_agree(verify, folder: Path, golden) -> None:
    states = engine(folder, [example.token_ids for example in golden])
    code, said = verify(states)
    assert code == 0
    assert "they agree" in said
    code, said = verify([state.bfloat16().float() for state in states])
    assert "they agree" not in said  # float32 does not round so much.


def test_states_of_all_tokens_in_one_file_agree(
    probe: Path, folder: Path, golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = torch.cat(engine(folder, [example.token_ids for example in golden]))
    save_file({"states": states.bfloat16()}, tmp_path / "s.safetensors")
    assert main(["verify", str(probe), "--states", str(tmp_path / "s.safetensors")]) == 0
    assert "within the rounding of bfloat16 and float32" in capsys.readouterr().out


WRONG: dict[str, tuple[Callable[[Path, list[list[int]]], list[torch.Tensor]], str]] = {
    "BOS prepended": (
        lambda folder, texts: engine(folder, [[BOS, *text] for text in texts]),
        "a BOS (1) was put before that of the golden token ids",
    ),
    "BOS missing": (
        lambda folder, texts: engine(folder, [text[1:] for text in texts]),
        "the BOS (1) is missing: ask the engine for the golden token ids",
    ),
    "a layer too early": (
        lambda folder, texts: [s.roll(1, dims=1) for s in engine(folder, texts)],
        "its layer 3 is the one before it, off by one",
    ),
    "BOS prepended, and a layer too early": (
        lambda folder, texts: [
            s.roll(1, dims=1) for s in engine(folder, [[BOS, *text] for text in texts])
        ],
        "not for text; and its layer 3 is the one before it, off by one",
    ),
    "after the norm": (
        lambda folder, texts: engine(folder, texts, raw=False),
        "the states are those after the model's final norm",
    ),
    "another token": (
        lambda folder, texts: [s[:-1] for s in engine(folder, texts)],
        "the states are of the token before the one that is read",
    ),
    "the first token": (
        lambda folder, texts: [s[:1] for s in engine(folder, texts)],
        "the states are of the first token",
    ),
    "EOS appended": (
        lambda folder, texts: engine(folder, [[*text, EOS] for text in texts]),
        "an EOS (2) was put after the golden token ids",
    ),
    "noise": (
        lambda folder, texts: [s + torch.randn(s.shape) for s in engine(folder, texts)],
        "neither a BOS too many or too few, nor the layer before or after",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_how_other_states_differ_is_said_in_a_sentence(
    wrong: str, verify, folder: Path, golden
) -> None:
    make, message = WRONG[wrong]
    code, said = verify(make(folder, [list(example.token_ids) for example in golden]))
    assert code == 2
    assert "s.npz: does not agree with the golden examples of" in said
    assert message in said
    if ", and " not in wrong:
        others = [words for name, (_, words) in WRONG.items() if name != wrong]
        assert not any(words in said for words in others)


def test_off_by_one_is_found_in_the_file_without_the_model_and_can_be_put_right(
    probe: Path, folder: Path, golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that calls what leaves block 1 layer 0, asked where the model is not."""
    alone = load_probe(probe)
    gone = SavedProbe(
        alone.coef, alone.intercept, alone.classes,
        {**alone.facts, "model_id": "no/such-model", "revision": "0" * 40}, alone.scores,
        alone.golden,
    )  # fmt: skip
    path = gone.save(tmp_path / "probe.safetensors")
    states = torch.stack([s[-1] for s in engine(folder, [g.token_ids for g in golden])])
    states = torch.cat([states[:, 1:], torch.randn(8, 1, 32)], dim=1)
    np.save(tmp_path / "s.npy", states.numpy())
    words = ["verify", str(path), "--states", str(tmp_path / "s.npy")]
    assert main(words) == 2
    assert "its layer 3 is the one after it, off by one" in capsys.readouterr().err
    assert main([*words, "--set", "layer_offset=1"]) == 0


def write_requests(folder: Path, texts: Sequence[Sequence[int]], states) -> None:
    folder.mkdir()
    for number, (text, state) in enumerate(zip(texts, states, strict=True)):
        tensors = {"hidden_states": state.contiguous(), "token_ids": torch.tensor(text)}
        save_file(tensors, folder / f"{number}-abcd.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text, ""),
        (lambda text: [BOS, *text], "its token ids begin with 1, a BOS that the golden examples"),
        (lambda text: text[1:], "its token ids lack the first one, 1, a BOS"),
        (lambda text: text[::-1], "no request has the token ids of golden example 0"),
    ],
)
def test_requests_of_vllm_are_found_by_their_token_ids(
    probe: Path, folder: Path, golden, tmp_path: Path, capsys, change, message: str
) -> None:
    texts = [change(list(example.token_ids)) for example in reversed(golden)]
    write_requests(tmp_path / "requests", texts, engine(folder, texts))
    code = main(["verify", str(probe), "--states", str(tmp_path / "requests")])
    assert code == (2 if message else 0)
    assert message in capsys.readouterr().err


def test_the_golden_examples_are_written_for_another_engine(
    probe: Path, golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "golden.json"
    assert main(["verify", str(probe), "--write", str(file)]) == 0
    written = json.loads(file.read_text())
    assert [tuple(entry["token_ids"]) for entry in written] == [g.token_ids for g in golden]
    assert [entry["logit"] for entry in written] == [g.logit for g in golden]
    assert str(file) in capsys.readouterr().out


def test_what_cannot_be_verified_is_said_in_a_sentence(
    probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = load_probe(probe)
    none = replace(alone, golden=()).save(tmp_path / "none.safetensors")
    off = replace(alone, golden=tuple(replace(g, logit=g.logit + 1) for g in alone.golden)).save(
        tmp_path / "off.safetensors"
    )
    beyond = replace(
        alone, golden=tuple(replace(g, token_ids=(9999,), positions=(0,)) for g in alone.golden)
    ).save(tmp_path / "beyond.safetensors")
    np.savez(tmp_path / "few.npz", layer_3=np.zeros((7, 32), np.float32))
    np.savez(tmp_path / "wide.npz", layer_3=np.zeros((8, 31), np.float32))
    np.savez(tmp_path / "first.npz", layer_0=np.zeros((8, 32), np.float32))
    for words, message in (
        ([none], "has no golden examples, since it was fitted on arrays or by an older version"),
        ([off], "does not agree with the golden examples"),
        ([beyond], "has no token 9999; it is another model"),
        ([probe, "--states", tmp_path / "few.npz"], "has 7 rows where there should be 8 or"),
        ([probe, "--states", tmp_path / "wide.npz"], "layer 3 has 31 features, and the probe's"),
        ([probe, "--states", tmp_path / "first.npz"], "has no layer 3, which the golden examples"),
        ([probe, "--set", "layer_offset=1"], "--set: belongs to --states"),
    ):
        assert main(["verify", *map(str, words)]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert sum(line.startswith("llmprobe:") for line in said.splitlines()) == 1


def test_a_damaged_model_does_not_agree(
    probe: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    module = AutoModel.from_pretrained(other)
    module.h[0].mlp.c_fc.weight.data.mul_(1.5)
    module.save_pretrained(other)
    assert main(["verify", str(probe), "--model", str(other)]) == 2
    assert "other weights, or another version of transformers" in capsys.readouterr().err
