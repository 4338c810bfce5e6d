"""Sentence embeddings are those of sentence-transformers' recipe, computed plainly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import WORDS
from transformers import AutoModel, AutoTokenizer

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.text_encoder import TextEncoder
from llmprobe.ground.errors import UserError

LONGEST = 9
TEXTS = [" ".join(WORDS[i : i + 1 + 3 * i % 13]) for i in range(12)]
DATA = ConceptDataset("texts", TEXTS, np.arange(12) % 2)


def sentence_folder(
    model: Path, folder: Path, pooling: str = "mean_tokens", *more: str, normalise: bool = True
) -> Path:
    """A model with the files that sentence-transformers writes around it."""
    shutil.copytree(model, folder)
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else []), *more]
    modules = [
        {"path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LONGEST}))
    (folder / "1_Pooling").mkdir()
    names = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    settings = {f"pooling_mode_{name}": name == pooling for name in names}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return folder


def plain(folder: Path, text: str, pooling: str, normalise: bool) -> np.ndarray:
    """The embedding of one text by the documented recipe: token states, pooled, normalised."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    encoded = tokenizer([text], truncation=True, max_length=LONGEST, return_tensors="pt")
    with torch.inference_mode():
        states = model.eval()(input_ids=encoded["input_ids"]).last_hidden_state[0]
    pooled = {"mean_tokens": states.mean(0), "cls_token": states[0], "lasttoken": states[-1]}
    vector = pooled[pooling]
    return (vector / vector.norm() if normalise else vector).numpy()


def embeddings(folder: Path, data: ConceptDataset = DATA) -> np.ndarray:
    encoder = TextEncoder(str(folder))
    return encoder.normalised(encoder.extract(data, progress=False))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [
        ("bert", "mean_tokens"),
        ("bert", "cls_token"),
        ("llama", "mean_tokens"),
        ("opt", "lasttoken"),
        ("llama", "lasttoken"),
    ],
)
def test_embeddings_are_those_of_the_documented_recipe(
    architecture: str,
    pooling: str,
    normalise: bool,
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny_model(architecture, bos=True, eos=True, left=True)
    folder = sentence_folder(model, tmp_path / "encoder", pooling, normalise=normalise)
    found = embeddings(folder)
    expected = [plain(folder, text, pooling, normalise) for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert f"fill the encoder's window of {LONGEST} tokens" in caplog.text


def test_a_model_that_says_nothing_of_pooling_gives_the_mean(
    tiny_model: Callable[..., Path],
) -> None:
    folder = tiny_model("bert", bos=True, eos=True)
    short = ConceptDataset("short", TEXTS[:3], DATA.labels[:3])
    expected = [plain(folder, text, "mean_tokens", False) for text in TEXTS[:3]]
    np.testing.assert_allclose(embeddings(folder, short), expected, atol=2e-6)


def test_of_labelled_words_the_words_are_read_even_if_all_are_the_same(
    tiny_model: Callable[..., Path],
) -> None:
    folder = tiny_model("bert", bos=True)
    texts = ["the red coin", "one red city", "red"]
    words = [(text.index("red"), text.index("red") + 3) for text in texts]
    found = embeddings(folder, ConceptDataset("red", texts, np.array([0, 1, 0]), words=words))
    np.testing.assert_allclose(found, [found[2]] * 3)


def test_embeddings_are_found_again_and_are_not_the_states_of_a_layer(
    tiny_model: Callable[..., Path],
) -> None:
    encoder = TextEncoder(str(tiny_model("llama", bos=True)))
    assert encoder.find(DATA) is None
    made = encoder.extract(DATA, progress=False)
    encoder.release()
    found = encoder.find(DATA)
    assert found is not None
    assert found.store.folder == made.store.folder
    np.testing.assert_array_equal(encoder.normalised(found), encoder.normalised(made))


@pytest.mark.parametrize(
    ("pooling", "more", "message"),
    [
        ("max_tokens", (), "pools tokens by max; known are mean, cls, lasttoken"),
        ("mean_tokens", ("Dense",), "modules.json has 'Dense'"),
    ],
)
def test_embeddings_that_are_made_in_another_way_are_refused(
    pooling: str,
    more: tuple[str, ...],
    message: str,
    tiny_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = sentence_folder(tiny_model("bert"), tmp_path / "encoder", pooling, *more)
    with pytest.raises(UserError, match=message):
        TextEncoder(str(folder))
