"""Where a model goes: on one device if it fits, else over several and the disk."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError
from llmprobe.models import placement as placing
from llmprobe.models.layers import same
from llmprobe.models.loading import LoadedModel, load_model
from llmprobe.models.placement import free_memory, place, placement, weight_bytes
from llmprobe.models.source import locate

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
IDS = torch.arange(1, 9)[None]


@torch.inference_mode()
def states(model: LoadedModel) -> list[Tensor]:
    return list(model.module(input_ids=IDS, output_hidden_states=True).hidden_states)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``memory({"cpu": 1000})``: what is free, by device."""

    def pretend(free: dict[int | str, int]) -> None:
        monkeypatch.setattr(placing, "free_memory", lambda _: iter(free.items()))

    return pretend


@pytest.mark.parametrize(
    ("needed", "free", "shares"),
    [
        (90, {"cpu": 100}, None),
        (91, {"cpu": 100}, {"cpu": 90}),
        (90, {0: 100, "cpu": 1000}, None),
        (91, {0: 100, "cpu": 1000}, {0: 90, "cpu": 900}),
        (91, {0: 100, 1: 100, "cpu": 1000}, {0: 90, 1: 90, "cpu": 900}),
        (10**6, {0: 100, 1: 200, "cpu": 10}, {0: 90, 1: 180, "cpu": 9}),
    ],
)
def test_a_model_is_spread_only_if_it_leaves_the_first_device_too_little(
    needed: int, free: dict[int | str, int], shares: dict[int | str, int] | None
) -> None:
    assert place(needed, free.items()) == shares


def test_other_devices_are_not_woken_for_a_model_that_fits() -> None:
    def free() -> Iterator[tuple[int | str, int]]:
        yield 0, 100
        pytest.fail("asked another device")

    assert place(50, free()) is None


def test_the_gpu_in_use_is_asked_first_and_the_processor_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (100 + index, 1000))
    *gpus, last = free_memory(CUDA)
    assert gpus == [(1, 101), (0, 100), (2, 102)]
    assert last[0] == "cpu"
    assert [device for device, _ in free_memory(CPU)] == ["cpu"]


def test_the_processors_memory_is_told_without_collecting_garbage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That takes a quarter of a second, and only a GPU needs it."""
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("collected"))
    assert next(free_memory(CPU))[1] > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral", "bert"])
def test_the_memory_of_weights_is_known_before_they_are_loaded(
    architecture: str, dtype: str, tiny_model: Callable[..., Path]
) -> None:
    model = load_model(ModelConfig(id=str(tiny_model(architecture)), dtype=dtype))
    with torch.device("meta"):
        shape = type(model.module)(model.module.config)
    actual = sum(p.nbytes for p in model.module.parameters())
    # Position tables and the like stand beside the weights.
    assert actual <= weight_bytes(shape, model.dtype, "none") <= 1.05 * actual


@pytest.mark.parametrize("share", [0.6, 0.01])
@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("llama", "float32"), ("llama", "bfloat16"), ("gpt2", "float32"), ("gemma3", "float32"),
     ("mixtral", "float32"), ("bert", "float32")],
)  # fmt: skip
def test_a_model_partly_on_disk_has_the_states_of_one_in_memory(
    architecture: str,
    dtype: str,
    share: float,
    tiny_model: Callable[..., Path],
    memory: Callable[..., None],
) -> None:
    config = ModelConfig(id=str(tiny_model(architecture)), dtype=dtype)
    plain = load_model(config)
    memory({"cpu": int(share * sum(p.nbytes for p in plain.module.parameters()))})
    spread = load_model(config)
    assert (plain.spread, spread.spread) == (False, True)
    assert any(p.is_meta for p in spread.module.parameters())
    assert all(map(same, states(spread), states(plain)))
    assert spread.device == CPU
    assert len(spread.blocks) == len(plain.blocks)
    for fact in ("dtype", "parameters", "final_norm", "causal"):
        assert getattr(spread, fact) == getattr(plain, fact), fact


def test_the_log_says_what_is_where(
    tiny_model: Callable[..., Path],
    memory: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory({"cpu": 60_000})
    with caplog.at_level(logging.INFO, "llmprobe"):
        load_model(ModelConfig(id=str(tiny_model("llama")), dtype="float32"))
    assert "on cpu (5 kB), disk (93 kB)" in caplog.text


def test_random_weights_are_spread_too(
    tiny_model: Callable[..., Path], memory: Callable[..., None]
) -> None:
    config = ModelConfig(id=str(tiny_model("llama")), dtype="float32", weights="random", seed=1)
    plain = load_model(config)
    memory({"cpu": 60_000})
    spread = load_model(config)
    assert spread.spread
    assert all(map(same, states(spread), states(plain)))


def test_what_was_written_to_disk_goes_with_the_model(
    tiny_model: Callable[..., Path], memory: Callable[..., None], tmp_path: Path
) -> None:
    memory({"cpu": 60_000})
    model = load_model(ModelConfig(id=str(tiny_model("llama")), dtype="float32", weights="random"))
    written = list((tmp_path / "cache").glob("offload-*/**/*.safetensors"))
    assert written
    del model
    gc.collect()
    assert not list((tmp_path / "cache").glob("offload-*"))


def test_a_device_that_was_asked_for_is_taken_whatever_its_memory(
    tiny_model: Callable[..., Path], memory: Callable[..., None]
) -> None:
    memory({"cpu": 1})
    assert not load_model(ModelConfig(id=str(tiny_model("llama")), device="cpu")).spread


@pytest.mark.parametrize("launcher", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_a_launched_process_spreads_nothing_over_the_gpus_of_others(
    launcher: str,
    tiny_model: Callable[..., Path],
    memory: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory({"cpu": 1})
    monkeypatch.setenv(launcher, "2")
    assert not load_model(ModelConfig(id=str(tiny_model("llama")))).spread


@pytest.mark.parametrize(
    ("options", "rank", "said", "unsaid"),
    [
        ({"device": "cpu"}, None, ["device: auto", "quantization"], ["single process"]),
        ({}, None, ["memory of cpu", "quantization"], ["device: auto", "single process"]),
        ({}, "0", ["single process", "quantization"], ["device: auto"]),
    ],
)
def test_out_of_memory_says_what_helps(
    options: dict[str, Any],
    rank: str | None,
    said: list[str],
    unsaid: list[str],
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoModel

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(AutoModel, "from_pretrained", fail)
    monkeypatch.setenv("WORLD_SIZE", "2" if rank else "1")
    monkeypatch.setenv("LOCAL_RANK", rank or "")
    with pytest.raises(UserError, match="does not fit") as caught:
        load_model(ModelConfig(id=str(tiny_model("llama")), **options))
    for words in said:
        assert words in str(caught.value)
    for words in unsaid:
        assert words not in str(caught.value)


@pytest.mark.parametrize(
    ("free", "device", "shares"),
    [
        ({0: 10**6, 1: 10**6, "cpu": 10**6}, CUDA, None),
        ({0: 10_000, 1: 10**6, "cpu": 10**6}, CUDA, {0: 9_000, 1: 900_000}),
        ({0: 10_000, 1: 10_000, "cpu": 10**6}, CUDA, "18 kB"),
        ({"cpu": 10_000}, CPU, "9 kB"),
    ],
)
def test_quantised_weights_go_over_gpus_alone(
    free: dict[int | str, int],
    device: torch.device,
    shares: dict[int | str, int] | str | None,
    tiny_model: Callable[..., Path],
    memory: Callable[..., None],
) -> None:
    from transformers import AutoConfig

    config = ModelConfig(id=str(tiny_model("llama")), quantization="int8")
    memory(free)
    where = (config, locate(config), AutoConfig.from_pretrained(config.id), torch.float32, device)
    if isinstance(shares, str):
        with pytest.raises(UserError, match=f"takes 29 kB .* more than the {shares}"):
            placement(*where)
    else:
        assert placement(*where) == shares
