"""Hidden states of every layer at the wanted positions, taken inside the forward pass.

Only what is read is kept, ``[layers, rows, d]``: memory does not grow with length × layers, as it
does with ``output_hidden_states=True`` (which also returns the last layer after the final norm).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.models.layers import block_input, hidden_state
from llmprobe.models.loading import LoadedModel

Reader = Callable[[int, Tensor], Tensor]
"""From the how-manieth layer it is and its states, ``[batch, tokens, d]``, to what is read of them,
``[rows, d]``."""


class Capture:
    """Hooks at one site of every block, for as long as the ``with`` block lasts.

    Several threads may run the model at a time; each has its own readings.
    """

    def __init__(self, model: LoadedModel, site: str) -> None:
        self.model, self.site = model, site
        self._reading = threading.local()
        self._handles: list[Any] = []

    @property
    def layers(self) -> range:
        """The layers that the site has: a sub-layer adds nothing to layer 0."""
        return range(0 if self.site == "residual" else 1, len(self.model.blocks) + 1)

    def __enter__(self) -> Capture:
        blocks = self.model.blocks
        if self.site == "residual":
            hook = self._before_first
            self._handles.append(blocks[0].register_forward_pre_hook(hook, with_kwargs=True))
        for layer, module in enumerate(self.model.site(self.site), start=1):
            self._handles.append(module.register_forward_hook(self._after(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    @contextmanager
    def into(self, buffer: Tensor, reader: Reader, shape: tuple[int, int]) -> Iterator[None]:
        """What this thread runs inside the block is read into ``buffer``, ``[layers, rows, d]``.

        ``shape`` is that of the input, ``(batch, tokens)``: some modules return it flattened.
        """
        self._reading.now = (buffer, reader, shape)
        try:
            yield
        finally:
            self._reading.now = None

    def _read(self, layer: int, states: Tensor) -> None:
        now = getattr(self._reading, "now", None)
        if now is not None:
            buffer, reader, shape = now
            slot = layer - self.layers.start
            buffer[slot] = reader(slot, states.reshape(*shape, -1))

    def _before_first(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._read(0, block_input(args, kwargs))

    def _after(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            self._read(layer, hidden_state(output))

        return hook


@dataclass(frozen=True)
class Pending:
    """States on their way to the host, while the device goes on."""

    parts: list[Tensor]
    copied: torch.cuda.Event | None

    @staticmethod
    def of(parts: list[Tensor]) -> Pending:
        """Start to copy ``parts``, each [layers, rows, d], off their device."""
        if parts[0].device.type != "cuda":
            return Pending([part.cpu() for part in parts], None)
        hosts = [torch.empty(p.shape, dtype=p.dtype, pin_memory=True) for p in parts]
        for host, part in zip(hosts, parts, strict=True):
            host.copy_(part, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(parts[0].device))
        return Pending(hosts, copied)

    def result(self) -> Tensor:
        """The states, when they are there. -> [layers, rows, d] on the CPU"""
        if self.copied is not None:
            self.copied.synchronize()
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)
