"""States are those of the model run plainly on one text, whatever the batch; nothing is lost."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import WORDS

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.config import ExtractConfig, ModelConfig
from llmprobe.errors import UserError
from llmprobe.extraction import extract as extraction
from llmprobe.extraction import plan as planning
from llmprobe.extraction.extract import Extractor
from llmprobe.models.loading import LoadedModel, load_model

ARCHITECTURES = ["llama", "mistral", "gemma3", "gpt2", "gpt_neox", "opt", "bloom", "bert"]


def dataset(n: int = 24, name: str = "words") -> ConceptDataset:
    """Texts of 1 to 14 words, the first one twice."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=1 + i % 14)) for i in range(n)]
    texts[-1] = texts[0]
    return ConceptDataset(name, texts, np.arange(n) % 2)


def extractor(folder: Path, **options: object) -> Extractor:
    model = ModelConfig(id=str(folder), dtype="float32")
    return Extractor(model, ExtractConfig(batch_tokens=60, **options))


def plain_states(model: LoadedModel, text: str) -> np.ndarray:
    """One text alone, as transformers' users do it, but before the final norm. [layers, t, d]"""
    last: list[torch.Tensor] = []

    def keep(_: object, __: object, output: object) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    handle = model.blocks[-1].register_forward_hook(keep)
    with torch.inference_mode():
        states = model.module(input_ids=ids, output_hidden_states=True).hidden_states
    handle.remove()
    return torch.cat([*states[:-1], last[0]]).numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("position", ["last", "mean", "first"])
def test_states_in_mixed_batches_are_those_of_each_text_alone(
    architecture: str, position: str, tiny_model: Callable[..., Path]
) -> None:
    folder = tiny_model(architecture, bos=True, left=True)
    data = dataset()
    one = extractor(folder, position=position)
    activations = one.extract(data, cache=False)
    assert activations.layers == [0, 1, 2, 3]
    states = np.stack([activations.layer(i) for i in activations.layers], axis=1)
    assert states.dtype == np.float32
    for row, text in enumerate(data.texts):
        alone = plain_states(one.model, text)
        # Token 0 is the BOS: a special token, which a mean leaves out.
        read = {"last": alone[:, -1], "first": alone[:, 0], "mean": alone[:, 1:].mean(axis=1)}
        difference = np.linalg.norm(states[row] - read[position], axis=1)
        assert (difference <= 1e-5 * np.linalg.norm(read[position], axis=1)).all()


def test_the_last_layer_is_before_the_final_norm(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    data = dataset()
    activations = extractor(folder).extract(data, cache=False)
    model = load_model(ModelConfig(id=str(folder), dtype="float32"))
    with torch.inference_mode():
        ids = torch.tensor([model.tokenizer(data.texts[3])["input_ids"]])
        after = model.module(input_ids=ids).last_hidden_state[0, -1]
        normed = model.module.norm(torch.tensor(activations.layer(3)[3]))
    assert torch.allclose(normed, after, atol=1e-5)
    assert not np.allclose(activations.layer(3)[3], after, atol=1e-2)


def test_layer_0_is_what_enters_block_1_and_not_the_bare_embedding(
    tiny_model: Callable[..., Path],
) -> None:
    folder = tiny_model("gpt2")
    data = dataset()
    states = extractor(folder).extract(data, cache=False).layer(0)
    module = load_model(ModelConfig(id=str(folder), dtype="float32")).module
    ids = load_model(ModelConfig(id=str(folder))).tokenizer(data.texts[5])["input_ids"]
    token, place = module.wte.weight[ids[-1]], module.wpe.weight[len(ids) - 1]
    assert np.allclose(states[5], (token + place).detach(), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("architecture", "way"), [("llama", "padded"), ("bert", "padded with a mask")]
)
def test_a_model_that_looks_both_ways_is_given_a_mask(
    architecture: str, way: str, dtype: str, tiny_model: Callable[..., Path]
) -> None:
    model = ModelConfig(id=str(tiny_model(architecture)), dtype=dtype)
    assert Extractor(model).extract(dataset(), cache=False).facts["way"] == way


def test_batches_that_disagree_with_a_text_alone_are_not_used(
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = extraction.capture

    def wrong_when_padded(model, batch, *args, **options):
        states = plain(model, batch, *args, **options)
        return states if len(set(map(len, batch))) == 1 else states * 1.01

    folder = tiny_model("llama")
    right = extractor(folder).extract(dataset(), cache=False)
    monkeypatch.setattr(extraction, "capture", wrong_when_padded)
    with caplog.at_level(logging.WARNING):
        checked = extractor(folder).extract(dataset(), cache=False)
    assert checked.facts["way"] == "one length a batch"
    assert "differ by 1.0e-02 from a text run alone" in caplog.text
    for layer in right.layers:
        assert np.allclose(checked.layer(layer), right.layer(layer), rtol=1e-5, atol=1e-6)


def test_states_that_are_not_finite_are_refused_with_layer_and_example(
    tiny_model: Callable[..., Path],
) -> None:
    one = extractor(tiny_model("llama"))
    data = dataset()
    red = one.model.tokenizer("red")["input_ids"][0]
    with torch.no_grad():
        one.model.module.get_input_embeddings().weight[red] = torch.inf
    with_red = [i for i, text in enumerate(data.texts) if "red" in text.split()]
    with pytest.raises(UserError, match=r"example (\d+) at layer (\d) is not finite") as error:
        one.extract(data, cache=False)
    assert int(str(error.value).split("example ")[1].split()[0]) in with_red


def test_a_mean_over_no_real_token_is_refused(tiny_model: Callable[..., Path]) -> None:
    data = ConceptDataset("x", ["red", "</s>"], np.array([0, 1]))
    with pytest.raises(UserError, match="example 1 has only special tokens"):
        extractor(tiny_model("llama"), position="mean").extract(data)


def test_a_second_extraction_is_read_and_the_model_not_loaded(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model("llama")
    first = extractor(folder).extract(dataset())
    monkeypatch.setattr(extraction, "load_model", lambda *_: pytest.fail("loaded again"))
    again = extractor(folder).extract(dataset())
    for layer in first.layers:
        assert np.array_equal(first.layer(layer), again.layer(layer))
    relabelled = ConceptDataset("words", dataset().texts, np.arange(24) % 3)
    assert extractor(folder).extract(relabelled).labels.max() == 2


def test_whatever_changes_the_states_changes_the_key(tiny_model: Callable[..., Path]) -> None:
    folder, data = tiny_model("llama"), dataset()
    texts = [*data.texts[:-1], "another text"]

    def key(model: dict[str, object] | None = None, data: ConceptDataset = data, **options: object):
        config = ModelConfig(**{"id": str(folder), "dtype": "float32", **(model or {})})
        return Extractor(config, ExtractConfig(**options)).folder(data)

    keys = [
        key(),
        key({"dtype": "bfloat16"}),
        key({"weights": "random"}),
        key({"weights": "random", "seed": 1}),
        key({"id": str(tiny_model("gpt2"))}),
        key({"id": str(tiny_model("llama", bos=True))}),
        key(data=ConceptDataset("words", texts, data.labels)),
        key(data=ConceptDataset("words", data.texts[::-1], data.labels)),
        key(position="mean"),
        key(chat_template=True),
        key(too_long="cut_left"),
    ]
    assert len(set(keys)) == len(keys)
    assert key(batch_tokens=7) == key()


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of about four examples, so that a small dataset has several."""
    monkeypatch.setattr(planning, "SHARD_BYTES", 4 * 4 * 32 * 4)


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_extraction_goes_on_after_its_last_whole_shard(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, data = tiny_model("llama"), dataset()
    whole = extractor(folder).extract(data)
    expected = {p.name: p.read_bytes() for p in whole.store.folder.glob("*.safetensors")}
    assert len(expected) == 4
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "another"))
    run, calls = extraction._shard, []

    def interrupted(plan, index, *args):
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(plan, index, *args)

    monkeypatch.setattr(extraction, "_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extractor(folder).extract(data)
    assert extractor(folder).find(data) is None
    resumed = extractor(folder).extract(data)
    assert calls == [0, 1, 2, *range(2, len(expected))]
    assert {p.name: p.read_bytes() for p in resumed.store.folder.glob("*.safetensors")} == expected


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing", "foreign"])
def test_a_damaged_shard_is_named_and_made_again(
    damage: str, tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder, data = tiny_model("llama"), dataset()
    first = extractor(folder).extract(data)
    expected = [first.layer(i) for i in first.layers]
    shard = first.store.shard_path(1)
    good = bytearray(shard.read_bytes())
    if damage == "flipped bit":
        good[-1] ^= 1
        shard.write_bytes(good)
    elif damage == "truncated":
        shard.write_bytes(good[:-9])
    elif damage == "foreign":
        shard.write_bytes(first.store.shard_path(0).read_bytes())
    else:
        shard.unlink()
    with caplog.at_level(logging.WARNING):
        again = extractor(folder).extract(data)
    assert shard.name in caplog.text
    for layer, states in zip(again.layers, expected, strict=True):
        assert np.array_equal(again.layer(layer), states)


@pytest.mark.usefixtures("small_shards")
def test_a_disk_that_fills_up_keeps_the_shards_that_are_whole(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, data = extractor(tiny_model("llama")), dataset()
    from llmprobe.extraction import store as storing

    save, calls = storing.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half of a shard")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(tensors, path, metadata)

    monkeypatch.setattr(storing, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        one.extract(data)
    files = sorted(p.name for p in one.folder(data).iterdir() if not p.name.startswith(".lock"))
    assert files == ["shard-00000.safetensors", "shard-00001.safetensors"]


def test_a_disk_too_small_is_said_before_the_work(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(OSError, match="extracting words needs"):
        extractor(tiny_model("llama")).extract(dataset())


def test_only_the_layer_asked_for_is_read(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmprobe.extraction import store as storing

    activations = extractor(tiny_model("llama")).extract(dataset())
    opened, read = storing.safe_open, []

    class Watched:
        def __init__(self, *args: object, **options: object) -> None:
            self.file = opened(*args, **options)

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(storing, "safe_open", Watched)
    activations.layer(2)
    assert read == ["2"]


def test_a_layer_that_does_not_exist_is_the_users_error(tiny_model: Callable[..., Path]) -> None:
    activations = extractor(tiny_model("llama")).extract(dataset(), cache=False)
    with pytest.raises(UserError, match="no layer 4: this model has layers 0 to 3"):
        activations.layer(4)


def test_the_manifest_tells_what_was_done(tiny_model: Callable[..., Path]) -> None:
    activations = extractor(tiny_model("llama")).extract(dataset())
    facts = json.loads((activations.store.folder / "manifest.json").read_text())
    assert facts["layers"] == 3
    assert facts["hidden_size"] == 32
    assert facts["dtype"] == "float32"
    assert facts["tokens"] == sum(len(t.split()) for t in dataset().texts)
    assert facts["check"] < 1e-5


@pytest.mark.packaged
@pytest.mark.usefixtures("packaged_cache")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_a_real_model_gives_a_text_the_same_states_in_any_batch(
    dtype: str, tolerance: float
) -> None:
    texts = [
        "Lima is the capital of Peru.",
        "Bern.",
        "The capital city of the Democratic Republic of the Congo is called Kinshasa.",
        "Coins are flipped by people who have names, one after the other, and then looked at.",
    ]
    model = ModelConfig(id="smollm2-135m", dtype=dtype)
    together = ConceptDataset("four", texts, np.arange(4) % 2)
    states = Extractor(model).extract(together, cache=False)
    one = ConceptDataset("two", [texts[1], texts[1] + " "], np.arange(2))
    alone = Extractor(model).extract(one, cache=False)
    assert states.layer(30).shape == (4, 576)
    for layer in states.layers:
        a, b = states.layer(layer)[1], alone.layer(layer)[0]
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)
