"""A pretend accelerator: the CPU computes tensors on ``pretend:0``, under a GPU's rules.

Mixing its tensors with CPU tensors is an error. Each operation for which the host would wait for a
GPU is counted, with the line that asked for it. This changes torch permanently, so the fixture
``accelerator`` installs it in a separate process.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
PACKAGE = f"{Path(__file__).resolve().parents[1]}/llmprobe/"

SCALARS = {"_local_scalar_dense", "is_nonzero", "equal", "allclose"}
"""Operations whose result is a number of the host's."""
SHAPES = {
    "nonzero", "masked_select", "unique_consecutive", "unique_dim", "_unique2", "bincount",
    "_linalg_eigh", "_linalg_svd", "_linalg_check_errors",
}  # fmt: skip
"""Operations that ask the device for values, the shape of the result or a check."""
COPIES = {"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize"}
"""Operations whose tensors may be on different devices."""

GROWN = ("arange", "arange.start", "arange.start_step", "eye", "eye.m", "randperm")
"""Operations that fill a tensor without elements, which a wrapper cannot follow."""


class Waits:
    """How often the host waited for the device, by why, and by where: a line of llmprobe, with
    ``transformers`` at its end where what waited is a line of that, below.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, why: str) -> None:
        """Count one, by the innermost line of llmprobe that led to it."""
        frame, where, inside = sys._getframe(2), "elsewhere", ""
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(PACKAGE):
                place = file.removeprefix(PACKAGE)
                where = f"{place}:{frame.f_code.co_name}:{frame.f_lineno}{inside}"
                break
            if "/transformers/" in file:
                inside = " in transformers"
            frame = frame.f_back  # type: ignore[assignment]
        self.counts[why, where] += 1

    def total(self) -> int:
        """Return how many there were."""
        return self.counts.total()

    def by_function(self) -> dict[str, int]:
        """Return how many there were in each function, the most first."""
        functions: Counter[str] = Counter()
        for (_, where), count in self.counts.items():
            functions[where.rpartition(":")[0] or where] += count
        return dict(functions.most_common())

    def __str__(self) -> str:
        return "\n".join(f"{n:6d} {why:12s} {where}" for (why, where), n in
                         self.counts.most_common())  # fmt: skip


_listening: list[Waits] = []


@contextmanager
def counted() -> Iterator[Waits]:
    """Count the waits of a ``with`` block."""
    waits = Waits()
    _listening.append(waits)
    try:
        yield waits
    finally:
        _listening.remove(waits)


def _wait(why: str) -> None:
    for waits in _listening:
        waits.add(why)


class OnDevice(Tensor):
    """A tensor of the pretend device, with its numbers in ``numbers``, a tensor of the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor, requires_grad: bool = False) -> Self:
        made = Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, device=f"{NAME}:0", requires_grad=requires_grad,
        )  # fmt: skip
        made.numbers = numbers
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.numbers!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_listless(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_listless(index), value)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, _: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _listless(index: Any) -> Any:
    """Return an index with tensors of the device in place of lists, which torch copies below us."""
    if isinstance(index, tuple):
        return tuple(map(_listless, index))
    return torch.tensor(index, device=NAME) if isinstance(index, list) else index


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Compute an operation on the CPU, as the pretend device would."""
    name = func.overloadpacket.__name__
    tensors: list[Tensor] = []

    def on_cpu(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
            return value.numbers if isinstance(value, OnDevice) else value
        return torch.device("cpu") if isinstance(value, torch.device) else value

    inputs = [_each(on_cpu, value) for value in args]
    options = {name: _each(on_cpu, value) for name, value in kwargs.items()}
    ours = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    _require_one_device(name, tensors, args)
    to_host = bool(ours) and (name in SCALARS or wanted == "cpu")
    _count(name, args, kwargs, to_host)
    if name == "histc":  # The CPU knows none of integers.
        inputs[0] = inputs[0].float()
    computed = func(*inputs, **options)
    if name == "copy_":
        return args[0]
    if to_host or not (ours or wanted == NAME):
        return computed
    same = {id(tensor.numbers): tensor for tensor in ours}  # What is changed in place stays itself.

    def on_device(value: Any) -> Any:
        if isinstance(value, Tensor) and not isinstance(value, OnDevice):
            made = same[id(value)] if id(value) in same else OnDevice(value)
            assert made.shape == value.shape, f"{func} changed a tensor's shape in place"
            return made
        return value

    return _each(on_device, computed)


def _each(call: Callable[[Any], Any], value: Any) -> Any:
    """Return what ``call`` makes of each value in lists and tuples."""
    if isinstance(value, (list, tuple)):
        return type(value)([_each(call, one) for one in value])
    return call(value)


def _require_one_device(name: str, tensors: Sequence[Tensor], args: Sequence[Any]) -> None:
    """Refuse what CUDA refuses: tensors of both devices, but numbers and indices of the host."""
    if name in COPIES or name == "set_" or not any(isinstance(t, OnDevice) for t in tensors):
        return
    others = [t for t in tensors if not isinstance(t, OnDevice) and t.dim()]
    if name in {"index", "index_put", "index_put_", "_index_put_impl_"}:
        values = [args[0], *args[2:3]]
        others = [t for t in values if not isinstance(t, OnDevice) and t.dim()]
    if others:
        shapes = [(tuple(t.shape), str(t.device)) for t in tensors]
        raise RuntimeError(f"{name}: expected all tensors on the same device, found {shapes}")


def _count(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], to_host: bool) -> None:
    """Count what makes the host wait where a GPU computes."""
    asynchronous = bool(kwargs.get("non_blocking")) or (name == "copy_" and args[2:3] == (True,))
    if name in SCALARS:
        _wait("scalar")
    elif name in COPIES:
        of_host = to_host or (name == "copy_" and not isinstance(args[0], OnDevice))
        if of_host:
            _wait("to host")
        elif not isinstance(args[1 if name == "copy_" else 0], OnDevice) and not asynchronous:
            _wait("to device")
    elif to_host:
        _wait("to host")
    elif name in SHAPES or (name == "repeat_interleave" and not kwargs.get("output_size")):
        _wait("shape")
    elif name in {"index", "index_put", "index_put_", "_index_put_impl_"}:
        indices = [index for index in args[1] if index is not None]
        # CUDA fills by a mask with one number without asking how many are filled.
        fills = len(args) > 2 and not args[2].dim()
        for index in indices:
            if not isinstance(index, OnDevice):
                _wait("to device")
            elif index.dtype in (torch.bool, torch.uint8) and not fills:
                _wait("shape")


class _Module:
    """What torch asks of ``torch.pretend``."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, *_: Any) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, *_: Any) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_kept: list[Any] = []


def install() -> None:
    """Make the device, in a process that ends with its use, before llmprobe is imported."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    operations = torch.library.Library("aten", "IMPL")
    for name in GROWN:
        operations.impl(name, _by_run(name), "PrivateUse1")
    _kept.extend([library, operations])  # They hold for as long as they live.
    # Tensors like these have no version counter there.
    torch.inference_mode = torch.no_grad  # type: ignore[assignment,misc]
    _device_constructors()  # Which remembers those that ``torch.device`` as a context knows.
    for name in ("tensor", "as_tensor"):
        setattr(torch, name, _made_by(getattr(torch, name)))


def _by_run(name: str) -> Any:
    """Return what computes an operation that torch would build of an empty tensor that grows."""
    packet, _, overload = name.partition(".")
    func = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return lambda *args, **kwargs: _run(func, args, kwargs)


def _made_by(make: Any) -> Any:
    """Return a constructor that makes a tensor on the host and then copies it, as CUDA's do."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        result: Tensor
        if isinstance(data, OnDevice):
            return make(data, *args, device=device, **kwargs)
        result = make(data, *args, **kwargs)
        return result if device is None else result.to(device)

    return made
