"""Weights in other formats are converted once, and read back as they were written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import cache_folder
from llmprobe.models.conversions import converted
from llmprobe.models.loading import load_model
from llmprobe.models.source import check, locate


def make(_: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_bytes(b"1234")
    (folder / "config.json").write_bytes(b"{}")


@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_a_conversion_that_is_not_as_it_was_written_is_made_again(
    damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = converted("tiny", "0" * 64, make)
    assert converted("tiny", "0" * 64, lambda *_: pytest.fail("made again")) == folder
    (folder / "weights").unlink()
    if damage == "changed":
        (folder / "weights").write_bytes(b"1235")
    assert converted("tiny", "0" * 64, make) == folder
    assert (folder / "weights").read_bytes() == b"1234"
    assert f"{folder} is damaged; it is made again" in caplog.text


def test_what_an_older_version_converted_is_read_as_it_is() -> None:
    folder = converted("tiny", "0" * 64, make)
    (folder / "digests.json").unlink()
    (folder / "weights").write_bytes(b"1235")
    assert converted("tiny", "0" * 64, lambda *_: pytest.fail("made again")) == folder


IDS = torch.tensor([[5, 9, 11, 7, 20, 6]])


class RunsCode:
    """What a pickle makes of it: the call of a function."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


@pytest.fixture
def with_bin(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """``with_bin("llama", 2)``: a folder with the weights in two .bin files and no safetensors."""

    def save(architecture: str, n_files: int = 1, **options: bool) -> Path:
        ignored = shutil.ignore_patterns("*.safetensors")
        folder = tmp_path / "published"
        shutil.copytree(tiny_model(architecture), folder, ignore=ignored)
        weights = load_file(tiny_model(architecture) / "model.safetensors")
        # Of one storage, as tied weights are.
        weights["lm_head.weight"] = next(iter(weights.values())).view(-1)
        if n_files == 1:
            torch.save(weights, folder / "pytorch_model.bin", **options)
            return folder
        placed = {}
        for i in range(n_files):
            name = f"pytorch_model-{i}.bin"
            part = dict(list(weights.items())[i::n_files])
            torch.save(part, folder / name, **options)
            placed |= dict.fromkeys(part, name)
        index = folder / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": placed}))
        return folder

    return save


@pytest.mark.parametrize(
    ("architecture", "n_files", "options"),
    [
        ("llama", 1, {}),
        ("gpt2", 3, {}),
        ("bert", 1, {"_use_new_zipfile_serialization": False}),
    ],
)
def test_weights_in_bin_files_are_converted_once_where_that_is_asked_for(
    tiny_model: Callable[..., Path],
    with_bin: Callable[..., Path],
    architecture: str,
    n_files: int,
    options: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = with_bin(architecture, n_files, **options)
    with pytest.raises(UserError, match=r"has its weights in pytorch_model.*`convert: true` reads"):
        check(ModelConfig(id=str(folder)))
    config = ModelConfig(id=str(folder), convert=True, dtype="float32")
    expected = load_model(ModelConfig(id=str(tiny_model(architecture)), dtype="float32"))
    with torch.inference_mode():
        states, same = (
            model.module(input_ids=IDS).last_hidden_state
            for model in (load_model(config), expected)
        )
    assert torch.equal(states, same)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("converted again"))
    assert locate(config).folder.is_relative_to(cache_folder())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weight": RunsCode()}, "cannot be read without running code"),
        ({"epoch": 3}, "holds no weights by name"),
        ([torch.zeros(2)], "holds no weights by name"),
    ],
)
def test_a_bin_file_that_is_more_than_weights_is_refused_and_its_code_not_run(
    with_bin: Callable[..., Path], content: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_bin("llama")
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=said) as refused:
        locate(ModelConfig(id=str(folder), convert=True))
    assert "\n" not in str(refused.value)
    assert "code ran" not in capsys.readouterr().out


def test_an_index_of_bin_files_names_none_elsewhere(with_bin: Callable[..., Path]) -> None:
    folder = with_bin("llama", 2)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other.bin"}}))
    with pytest.raises(UserError, match=r"names '\.\./other\.bin', which is no .bin file"):
        check(ModelConfig(id=str(folder), convert=True))
