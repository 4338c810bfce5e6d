"""States are those of the model run plainly on one text, whatever the batch; nothing is lost."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import WORDS
from transformers import AutoTokenizer

from llmprobe.config.schema import ExtractConfig, ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.spans import Turn
from llmprobe.extraction import extract as extraction
from llmprobe.extraction import plan as planning
from llmprobe.extraction import runner as running
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.plan import MASKED, ONE_LENGTH, PADDED, PREFIX_TREE
from llmprobe.extraction.store import Store
from llmprobe.ground.errors import UserError
from llmprobe.models.loading import load_model


def dataset(n: int = 24, name: str = "words") -> ConceptDataset:
    """Texts of 1 to 14 words, the first one twice."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=1 + i % 14)) for i in range(n)]
    texts[-1] = texts[0]
    return ConceptDataset(name, texts, np.arange(n) % 2)


def extractor(folder: Path, **options: object) -> Extractor:
    model = ModelConfig(id=str(folder), dtype="float32")
    return Extractor(model, ExtractConfig(batch_tokens=60, **options))


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


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_token_embeddings_are_the_mean_of_layer_0_and_run_no_block(
    architecture: str, tiny_model: Callable[..., Path]
) -> None:
    folder = tiny_model(architecture, bos=True)
    data = dataset()
    expected = extractor(folder, position="mean").extract(data, cache=False).layer(0)
    one = extractor(folder, position="first")
    one.model.blocks[0].register_forward_hook(lambda *_: pytest.fail("a block has run"))
    activations = one.token_embeddings.extract(data)
    assert activations.layers == [0]
    assert np.allclose(activations.layer(0), expected, atol=1e-6)
    assert one.find(data) is None
    found = one.token_embeddings.find(data)
    assert found is not None
    np.testing.assert_array_equal(found.layer(0), activations.layer(0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_only_a_model_that_looks_both_ways_is_given_a_mask(
    architecture: str, dtype: str, tiny_model: Callable[..., Path]
) -> None:
    model = ModelConfig(id=str(tiny_model(architecture, bos=True)), dtype=dtype)
    facts = Extractor(model).extract(dataset(), cache=False).facts
    assert (facts["way"] == MASKED) == (architecture == "bert")


def test_the_cheaper_way_is_taken(tiny_model: Callable[..., Path]) -> None:
    """Long texts in common pay for the tree's masks; texts that share nothing do not."""
    one = extractor(tiny_model("llama"))
    rng = np.random.default_rng(0)
    apart = [" ".join([word, *rng.choice(WORDS, size=11)]) for word in WORDS]
    beginning = " ".join(rng.choice(WORDS, size=20))
    together = [f"{beginning} {word}" for word in WORDS]
    labels = np.arange(len(WORDS)) % 2
    ways = [
        one.extract(ConceptDataset("x", texts, labels), cache=False).facts
        for texts in (apart, together)
    ]
    assert [facts["way"] for facts in ways] == [PADDED, PREFIX_TREE]
    assert ways[1]["computed_tokens"] == ways[1]["unique_tokens"] == 20 + len(WORDS)


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_a_way_that_disagrees_with_a_text_alone_is_not_used(
    wrong: int,
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ways = (PREFIX_TREE, PADDED, MASKED, ONE_LENGTH)
    plain = running.make_runner

    def spoilt(plan, *args):
        way = plain(plan, *args)
        if plan.way not in ways[:wrong]:
            return way

        def run(texts):
            pending = way(texts)
            return SimpleNamespace(result=lambda: pending.result() * 1.01)

        run.prepare = way.prepare
        return run

    folder = tiny_model("llama", bos=True)
    right = extractor(folder).extract(dataset(), cache=False)
    assert right.facts["way"] == PREFIX_TREE
    monkeypatch.setattr(running, "make_runner", spoilt)
    with caplog.at_level(logging.WARNING):
        checked = extractor(folder).extract(dataset(), cache=False)
    assert checked.facts["way"] == ways[wrong]
    for way in ways[:wrong]:
        assert f"{way}: differs by 1.0e-02 from a text run alone" in caplog.text
    for layer in right.layers:
        assert np.allclose(checked.layer(layer), right.layer(layer), rtol=1e-5, atol=1e-6)


def test_in_bfloat16_a_way_may_differ_as_far_as_a_text_alone_rounds(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no further: what a fixed number allowed, .06, is far more than this model rounds."""
    one = Extractor(ModelConfig(id=str(tiny_model("llama", bos=True)), dtype="bfloat16"))
    texts = one.tokens(dataset(), one.tokenizer, one.model.module)
    plain, planner = running.make_runner, one.planner(texts, one.model)
    with Capture(one.model, "residual") as capture:
        sample = running.Sample(texts, capture)
        plan = planner.plan(PREFIX_TREE)
        assert 0 < sample.difference(plan) < sample.allowed < 0.04

        def spoilt(plan, *args):
            way = plain(plan, *args)

            def run(texts):
                pending = way(texts)
                return SimpleNamespace(result=lambda: pending.result() * 1.05)

            run.prepare = way.prepare
            return run

        monkeypatch.setattr(running, "make_runner", spoilt)
        assert sample.difference(plan) > sample.allowed


def test_where_float32_cannot_be_computed_a_fixed_rounding_is_allowed(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse():
        raise NotImplementedError

    monkeypatch.setattr(running, "in_float32", refuse)
    one = Extractor(ModelConfig(id=str(tiny_model("llama", bos=True)), dtype="bfloat16"))
    texts = one.tokens(dataset(), one.tokenizer, one.model.module)
    with Capture(one.model, "residual") as capture:
        allowed = running.Sample(texts, capture).allowed
    assert allowed == running.SLACK * running.ROUNDING[torch.bfloat16]


@pytest.mark.parametrize(("scale", "times"), [(1.0, 1), (3.0, 10)])
def test_what_a_way_may_differ_has_bounds_whatever_one_text_rounds(
    scale: float, times: int, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exact(alone, text):
        return alone([text]).result().float() * scale

    monkeypatch.setattr(running, "_in_float32", exact)
    one = Extractor(ModelConfig(id=str(tiny_model("llama", bos=True)), dtype="bfloat16"))
    texts = one.tokens(dataset(), one.tokenizer, one.model.module)
    with Capture(one.model, "residual") as capture:
        allowed = running.Sample(texts, capture).allowed
    assert allowed == times * running.ROUNDING[torch.bfloat16]


@pytest.mark.parametrize("bos", [False, True], ids=[PADDED, PREFIX_TREE])
def test_states_that_are_not_finite_are_refused_with_layer_and_example(
    bos: bool, tiny_model: Callable[..., Path]
) -> None:
    one = extractor(tiny_model("llama", bos=bos))
    data = dataset()
    red = one.model.tokenizer("red")["input_ids"][-1]
    with torch.no_grad():
        one.model.module.get_input_embeddings().weight[red] = torch.inf
    with_red = [i for i, text in enumerate(data.texts) if "red" in text.split()]
    with pytest.raises(UserError, match=r"example (\d+) at layer (\d) is not finite") as error:
        one.extract(data, cache=False)
    assert int(str(error.value).split("example ")[1].split()[0]) in with_red


@pytest.mark.parametrize(
    ("position", "texts", "token"),
    [
        ("first", ["the red", "the blue", "the green"], "the"),
        ("last", ["Quito", "Oslo", "Rome"], "<unk>"),
        ("span:text", ["red", "blue", "green"], "city"),
    ],
)
def test_one_state_for_texts_that_differ_is_refused_and_its_token_named(
    position: str, texts: list[str], token: str, tiny_model: Callable[..., Path]
) -> None:
    spans = {"text": [(0, 4)] * 3} if "span" in position else {}
    texts = [f"city of {text}" for text in texts] if spans else texts
    data = ConceptDataset("x", texts, np.array([0, 1, 1]), spans=spans)
    one = extractor(tiny_model("llama", bos=True), position=position)
    for refuse in (one.estimate, one.extract):
        with pytest.raises(UserError, match="every layer has one state for all 3") as error:
            refuse(data)
        assert f"read at {token!r}" in str(error.value)
    # A model that looks ahead reads the rest of the text too.
    both_ways = extractor(tiny_model("bert", bos=True), position=position)
    if position != "last":
        assert both_ways.extract(data, cache=False).facts["distinct_states"] == 3


def test_a_chat_template_that_drops_the_text_is_refused(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model("llama"), tmp_path / "tiny"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}one two{% endfor %}"
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"example 0: .* chat template leaves out, or changes"):
        extractor(folder, chat_template=True).extract(dataset())


def test_texts_that_share_a_few_states_are_warned_of_also_when_found_again(
    tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"{first} {second}" for first in WORDS[:2] for second in WORDS[:10]]
    data = ConceptDataset("x", texts, np.arange(20) % 2)
    for _ in range(2):
        caplog.clear()
        extractor(tiny_model("llama"), position="first").extract(data)
        assert "reads only 2 different states of 20 different texts" in caplog.text
    caplog.clear()
    # Layer 0 at the last of equal tokens is one state, which is normal.
    ends = ConceptDataset("x", [f"{text} still" for text in texts], np.arange(20) % 2)
    states = extractor(tiny_model("llama")).extract(ends, cache=False)
    assert len(np.unique(states.layer(0), axis=0)) == 1
    assert "WARNING" not in caplog.text


def test_a_mean_over_no_real_token_is_refused(tiny_model: Callable[..., Path]) -> None:
    data = ConceptDataset("x", ["red", "</s>"], np.array([0, 1]))
    with pytest.raises(UserError, match="example 1 has only special tokens"):
        extractor(tiny_model("llama"), position="mean").extract(data)


def test_a_token_beyond_the_embedding_is_refused(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model("llama"), tmp_path / "tiny"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["Quito"])
    tokenizer.save_pretrained(folder)
    data = ConceptDataset("x", ["red", "red Quito"], np.array([0, 1]))
    n = len(WORDS) + 4
    said = f"x: example 1 has token {n}, beyond the {n} of tiny: its tokenizer was made for another"
    with pytest.raises(UserError, match=f"^{said} model$"):
        extractor(folder).extract(data)


@pytest.mark.parametrize(("architecture", "window"), [("llama", 64), ("bert", 64), ("roberta", 60)])
def test_a_text_as_long_as_the_window_is_extracted_and_a_longer_one_refused(
    architecture: str, window: int, tiny_model: Callable[..., Path]
) -> None:
    """RoBERTa has 64 positions, of which those up to the padding's, 3, are no token's."""
    one = extractor(tiny_model(architecture))
    whole = " ".join(["red"] * window)
    states = one.extract(ConceptDataset("x", [whole, "red"], np.array([0, 1])), cache=False)
    assert states.layer(1).shape == (2, 32)
    longer = ConceptDataset("x", ["red", f"{whole} red"], np.array([0, 1]))
    for refuse in (one.estimate, one.extract):
        with pytest.raises(UserError, match=rf"window of {window} tokens \(example 1 has"):
            refuse(longer)


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
        key(site="attention"),
        key({"quantization": "int8"}),
        key(too_long="cut_left"),
    ]
    assert len(set(keys)) == len(keys)
    assert key(batch_tokens=7) == key()


def test_options_for_a_chat_template_are_refused_where_nothing_is_a_chat(
    tiny_model: Callable[..., Path],
) -> None:
    texts = replace(dataset(), chat={"enable_thinking": False})
    with pytest.raises(UserError, match="`chat` has options for a chat template, and these texts"):
        extractor(tiny_model("llama")).extract(texts)


def test_a_chat_template_that_changes_what_is_read_changes_the_key(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "chat")
    template = folder / "chat_template.jinja"
    keys = []
    for day in ("one", "two", "one"):
        template.write_text(day + " {% for m in messages %}{{ m['content'] }}{% endfor %}")
        one = extractor(folder, chat_template=True)
        # Only what is rendered is to tell the days apart, not the template's file.
        one._loaded.source = replace(one.source, identity="the same")
        keys.append(one.folder(dataset()))
    assert keys[0] == keys[2] != keys[1]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of four examples, so that a small dataset has several."""
    monkeypatch.setattr(planning, "LEAST_ROWS", 4)
    monkeypatch.setattr(planning, "LEAST_SHARDS", 10)


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_extraction_goes_on_after_its_last_whole_shard(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, data = tiny_model("llama"), dataset()
    expected = shards_of(extractor(folder).extract(data).store.folder)
    assert len(expected) > 4
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "another"))
    write, calls = Store.write_shard, []

    def interrupted(store, index, *args):
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(store, index, *args)

    monkeypatch.setattr(Store, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extractor(folder).extract(data)
    assert extractor(folder).find(data) is None
    resumed = extractor(folder).extract(data)
    assert calls == [0, 1, 2, *range(2, len(expected))]
    assert shards_of(resumed.store.folder) == expected


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("bos", [False, True], ids=[PADDED, PREFIX_TREE])
def test_shards_made_with_one_budget_count_with_another(
    bos: bool, tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder, data = str(tiny_model("llama", bos=bos)), dataset()
    model = ModelConfig(id=folder, dtype="float32")
    first = Extractor(model, ExtractConfig(batch_tokens=9)).extract(data)
    expected = shards_of(first.store.folder)
    (first.store.folder / "manifest.json").unlink()
    sorted(first.store.folder.glob("shard-*"))[2].unlink()
    caplog.clear()
    again = Extractor(model, ExtractConfig(batch_tokens=300)).extract(data)
    kept = shards_of(again.store.folder).items() & expected.items()
    assert len(kept) >= len(expected) - 1
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_looking_for_an_extraction_removes_nothing(
    tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    one = extractor(tiny_model("llama"))
    store = one.extract(dataset()).store
    (shard,) = store.folder.glob("shard-*")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert one.find(dataset()) is None
    assert shard.exists()
    assert f"{shard} is missing or damaged" in caplog.text


def test_a_manifest_is_of_all_shards_each_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    states = torch.zeros(1, 2, 3)
    store.write_shard(0, "layout", states, [0])
    with pytest.raises(OSError, match="expected shards 0 to 1, each once, and found 1 files"):
        store.finish("layout", 2, {})
    store.write_shard(0, "layout", states + 1, [0])
    with pytest.raises(OSError, match="expected shards 0 to 1"):
        store.finish("layout", 2, {})
    assert list(store.shards("layout")) == [0]
    store.write_shard(1, "layout", states + 2, [0])
    manifest = store.finish("layout", 2, {"row_of": [3, 0]})
    assert store.layer(0, manifest)[0].tolist() == [2, 2, 2]
    assert store.manifest() == manifest


def test_what_is_wrong_in_large_slices_only_is_found(tiny_model: Callable[..., Path]) -> None:
    """GPT-Neo's windows go by the order of keys, so only a slice beyond them is wrong."""
    one = extractor(tiny_model("gpt_neo", bos=True))
    past = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
    for module in one.model.module.modules():
        if getattr(module, "attention_type", "") == "local":
            module.bias = past ^ past.tril(-32)  # Windows of 32.
    texts = [f"red green {a} {b}" for a in WORDS[:9] for b in WORDS[9:20]]
    many = ConceptDataset("many", texts, np.arange(len(texts)) % 2)
    assert one.extract(many, cache=False).facts["way"] == PADDED


@pytest.mark.usefixtures("small_shards")
def test_a_disk_that_fills_up_keeps_the_shards_that_are_whole(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, data = extractor(tiny_model("llama")), dataset()
    write, calls = Path.write_bytes, []

    def full(path, content):
        calls.append(path)
        if len(calls) == 3:
            write(path, content[:99])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        one.extract(data)
    files = sorted(p.name for p in one.folder(data).iterdir() if not p.name.startswith(".lock"))
    assert [name[:12] for name in files] == ["shard-00000-", "shard-00001-"]


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
    with pytest.raises(UserError, match="no layer 4: these are layers 0 to 3"):
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


@pytest.mark.packaged
@pytest.mark.usefixtures("packaged_cache")
def test_every_position_of_a_chat_is_that_of_a_real_model_run_plainly() -> None:
    said = [("user", "Is 2 even?", "Yes, 2 is even."), ("user", "Is Lima in Peru?", " No.\n")]
    texts = [f"{question}\n\n{answer}" for _, question, answer in said]
    turns = [
        [Turn("user", 0, len(question)), Turn("assistant", len(question) + 2, len(text))]
        for (_, question, _), text in zip(said, texts, strict=True)
    ]
    data = ConceptDataset("chats", texts, np.arange(2), turns=turns)
    positions = ("last", "turn:user", "first:assistant", "mean:assistant", "token:-2", "mean")
    one = Extractor(ModelConfig(id="smollm2-135m", dtype="float32"),
                    ExtractConfig(position=positions, layers=(0, 10, 20)))  # fmt: skip
    states = one.extract(data, cache=False, progress=False)
    tokenizer, module = one.model.tokenizer, one.model.module
    special = set(tokenizer.all_special_ids)
    for row, (_, question, answer) in enumerate(said):
        messages = [
            {"role": "user", "content": question}, {"role": "assistant", "content": answer}
        ]  # fmt: skip
        ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        with torch.inference_mode():
            plain = module(torch.tensor([ids]), output_hidden_states=True).hidden_states
        words = [tokenizer.decode([token]) for token in ids]
        ends = [i for i, word in enumerate(words) if word == "<|im_end|>"]
        begin = max(i for i, word in enumerate(words) if word == "<|im_start|>")
        start = words.index("\n", begin) + 1
        length = len(tokenizer(answer.rstrip(), add_special_tokens=False)["input_ids"])
        content, asked = list(range(start, start + length)), ends[-2] - 1
        places = {
            "last": [len(ids) - 1], "turn:user": [asked], "first:assistant": content[:1],
            "mean:assistant": content, "token:-2": [len(ids) - 2],
            "mean": [i for i, token in enumerate(ids) if token not in special],
        }  # fmt: skip
        for position, place in places.items():
            for layer in (0, 10, 20):
                expected = plain[layer][0, place].mean(dim=0).numpy()
                got = states.at(position).layer(layer)[row]
                assert np.linalg.norm(got - expected) <= 1e-4 * np.linalg.norm(expected), position
