"""What docs/models.md shows does what it says, on tiny models in the place of its names."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.models.packaged import PACKAGED

TEXT = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")


@pytest.fixture
def folders(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A working folder with the models of the document."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    whole = tiny_model("llama")
    shutil.copytree(whole, tmp_path / "checkpoint-500")
    plain = AutoModelForCausalLM.from_pretrained(whole)
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(plain, lora).save_pretrained(tmp_path / "my-lora")
    older = tmp_path / "older-model"
    shutil.copytree(whole, older)
    torch.save(load_file(older / "model.safetensors"), older / "pytorch_model.bin")
    (older / "model.safetensors").unlink()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folders")
def test_each_command_on_a_model_runs(
    tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    commands = re.findall(r"^    llmprobe ((?:check|path|cache) .*)$", TEXT, re.MULTILINE)
    assert len(commands) == 9
    for command in commands:
        words = command.partition("#")[0].replace("smollm2-135m", str(tiny_model("llama"))).split()
        # There is no such model in the test's own cache.
        expected = 2 if "gemma-3-270m" in words else 0
        assert main(words) == expected, capsys.readouterr().err


@pytest.mark.usefixtures("folders")
def test_the_config_is_one() -> None:
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    Path("models.yaml").write_text(yaml)
    names = [model.name for model in load_config("models.yaml").models]
    assert names == [
        "smollm2-135m", "checkpoint-500", "smollm2-135m-my-lora", "older-model",
        "smollm2-135m-random",
    ]  # fmt: skip


@pytest.mark.usefixtures("folders")
def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    exec(compile(code, "docs/models.md", "exec"), {})
    assert "Trace(" in capsys.readouterr().out


def test_each_packaged_model_is_described_with_its_size() -> None:
    rows = dict(re.findall(r"^\| `([\w.-]+)` \|.*\| ([\d.]+ [MG]B) \| .*\|$", TEXT, re.MULTILINE))
    assert list(rows) == list(PACKAGED)
    for name, size in rows.items():
        number, unit = size.split()
        scale = 10 ** (9 if unit == "GB" else 6)
        assert float(number) * scale == pytest.approx(PACKAGED[name].n_bytes, rel=0.05)
