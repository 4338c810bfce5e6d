"""Models compute on the device and in the precision that suit them, or say why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy import write_config, write_table

from llmprobe.cli.main import main
from llmprobe.ground.errors import UserError
from llmprobe.models.devices import resolve_device, resolve_dtype, to_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16),
     ({"avx2": True, "avx512_bf16": False}, torch.float32), ({}, torch.float32)],
)  # fmt: skip
def test_auto_is_bfloat16_where_the_processor_computes_it(
    capabilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("float16", CPU) == torch.float16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "auto"])
@pytest.mark.parametrize("command", [["validate"], ["run", "--dry-run"], ["extract"]])
def test_a_precision_that_the_processor_computes_slowly_is_warned_of(
    dtype: str,
    command: list[str],
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if torch.accelerator.is_available():
        pytest.skip("this machine computes elsewhere")
    config = write_config(
        tmp_path / "c.yaml",
        {"id": str(tiny_model("llama")), "dtype": dtype},
        write_table(tmp_path / "t.csv"),
    )
    command = [*command, str(config), "--out", str(tmp_path / "run")]
    sentence = f"dtype: {dtype} takes about"
    for capabilities in ({}, {"avx512_bf16": True, "avx512_fp16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c)
        assert main(command) == 0
        slow = not capabilities and dtype.endswith("16")
        assert caplog.text.count(sentence) == slow
        caplog.clear()


def test_a_torch_without_the_public_query_is_asked_by_its_older_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda s=supported: s)
        assert resolve_dtype("auto", CPU) == expected


def test_the_host_waits_where_the_device_may_read_its_memory_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes_on: dict[str, bool] = {}

    class Host:
        def to(self, device: torch.device, non_blocking: bool) -> None:
            goes_on[device.type] = non_blocking

    monkeypatch.setattr(torch, "as_tensor", lambda _: Host())
    for device in ("cuda", "mps"):
        to_device(torch.ones(1), torch.device(device))
    assert goes_on == {"cuda": True, "mps": False}


def test_a_device_that_is_not_here_is_the_users_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(UserError, match="cuda"):
        resolve_device("cuda")
    with pytest.raises(UserError, match="toaster"):
        resolve_device("toaster")


@pytest.mark.parametrize(
    ("rank", "processes", "gpus", "device"),
    [
        (None, None, 4, "cuda"),
        ("2", "1", 4, "cuda"),
        ("2", None, 4, "cuda"),
        ("0", "4", 4, "cuda:0"),
        ("2", "4", 4, "cuda:2"),
        ("2", "4", 1, "cuda:0"),
    ],
)
def test_each_launched_process_has_the_gpu_of_its_number(
    rank: str | None,
    processes: str | None,
    gpus: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in (("LOCAL_RANK", rank), ("WORLD_SIZE", processes)):
        monkeypatch.delenv(key, raising=False)
        if value is not None:
            monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: CUDA)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: gpus)
    assert resolve_device("auto") == torch.device(device)


def test_launched_processes_share_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert resolve_device("auto") == CPU
