"""Hidden states of every layer at the wanted positions, taken inside the forward pass.

Only what is read is kept, ``[layers, rows, d]``: memory does not grow with length × layers, as it
does with ``output_hidden_states=True`` (which also returns the last layer after the final norm).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmprobe.config.sites import SITES, Site
from llmprobe.ground.errors import UserError
from llmprobe.models.layers import block_input, hidden_state
from llmprobe.models.loading import LoadedModel
from llmprobe.models.position_wise import Chosen, at_some_tokens

Reader = Callable[[int, Tensor], Tensor]
"""Function of the index of a layer in ``Capture.layers`` and its states, ``[batch, tokens, d]``,
that returns the rows that are kept, ``[rows, d]``."""


class _AllIsRead(Exception):  # noqa: N818 - no error
    """Ends a forward pass when all layers are read."""


def listen(model: LoadedModel, site: Site, layer: int, read: Callable[[Tensor], None]) -> Any:
    """Call ``read`` with the states of a layer whenever the model runs. -> handle of the hook

    Raises
    ------
    UserError
        The model has no such site.
    """

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read(block_input(args, kwargs))

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        read(hidden_state(output))

    modules = model.site(site.name)
    if layer == 0 or site.reads == "input":
        return modules[max(layer - 1, 0)].register_forward_pre_hook(before, with_kwargs=True)
    return modules[layer - 1].register_forward_hook(after)


class Capture:
    """Hooks at one site of every block, for as long as the ``with`` block lasts.

    Several threads may run the model at a time; each has its own readings.

    Raises
    ------
    UserError
        There is no such site or layer, or the model lacks the site.
    """

    layers: list[int]
    """Numbers of the layers that are read, in rising order."""

    position_wise: list[nn.Module]
    """Parts of the last block that run only at the tokens that are read; the self-check empties the
    list if that changes the states."""

    def __init__(self, model: LoadedModel, site: str, layers: Iterable[int] | None = None) -> None:
        """Prepare to read some layers of the site, by default every one.

        The model stops at the last of them: for layer 0 it embeds the tokens and runs no block.
        """
        self.model, self.site = model, SITES[site]
        known = self.site.layers(model.n_blocks)
        self.layers = list(known) if layers is None else sorted(set(layers))
        if not set(self.layers) <= set(known):
            raise UserError(
                f"model {model.name!r}: {site} has no layer {max(set(self.layers) - set(known))}; "
                f"its layers are {known[0]} to {known[-1]}"
            )
        self._slot = {layer: slot for slot, layer in enumerate(self.layers)}
        self._width = model.hidden_size
        self.position_wise = []
        self._reading = threading.local()
        self._handles: list[Any] = []

    def __enter__(self) -> Capture:
        site = self.model.site(self.site.name) if self.layers[-1] else []
        for module in self.position_wise:
            # States that are read inside of this part, or enter it, have to be those of all tokens.
            own = site[self.layers[-1] - 1]
            inside = any(own is part for part in module.modules())
            if inside and (own is not module or self.site.reads == "input"):
                continue
            self._handles += at_some_tokens(module, self._chosen)
        for layer in self.layers:
            read = partial(self._read, layer)
            self._handles.append(listen(self.model, self.site, layer, read))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    @contextmanager
    def into(
        self, buffer: Tensor, reader: Reader, shape: tuple[int, int], read: Tensor | None = None
    ) -> Iterator[None]:
        """Read the states of what this thread runs in the block into ``buffer`` [layers, rows, d].

        Parameters
        ----------
        shape
            The shape of the model's input, ``(batch, tokens)``, which some modules flatten.
        read
            The indices in the flattened batch of the tokens that are read; None for all.
        """
        self._reading.current = (buffer, reader, shape, read)
        try:
            yield
        except _AllIsRead:
            pass
        finally:
            self._reading.current = None

    def _chosen(self) -> Chosen | None:
        current = getattr(self._reading, "current", None)
        if current is None or current[3] is None or not self.position_wise:
            return None
        return current[3], current[2]

    def _read(self, layer: int, states: Tensor) -> None:
        current = getattr(self._reading, "current", None)
        if current is None:
            return
        buffer, reader, shape, _ = current
        if states.numel() != shape[0] * shape[1] * self._width:
            raise UserError(
                f"model {self.model.name!r}: {self.site.name}: layer {layer} has states of shape "
                f"{list(states.shape)}, expected {[*shape, self._width]}"
            )
        slot = self._slot[layer]
        buffer[slot] = reader(slot, states.reshape(*shape, -1))
        if layer == self.layers[-1]:
            raise _AllIsRead


@dataclass(frozen=True)
class Pending:
    """States that are being copied to the host while the device goes on."""

    parts: list[Tensor]
    order: np.ndarray | None
    """The order in which to take the rows of all parts; None where they are in order."""
    copied: torch.cuda.Event | None

    @staticmethod
    def of(parts: list[Tensor], order: np.ndarray | None = None) -> Pending:
        """Start to copy ``parts``, each [layers, rows, d], off their device."""
        if order is not None and (np.diff(order) == 1).all():
            order = None
        if parts[0].device.type != "cuda":
            return Pending([part.cpu() for part in parts], order, None)
        hosts = [torch.empty(p.shape, dtype=p.dtype, pin_memory=True) for p in parts]
        for host, part in zip(hosts, parts, strict=True):
            host.copy_(part, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(parts[0].device))
        return Pending(hosts, order, copied)

    def result(self) -> Tensor:
        """Wait for the states and return them, [layers, rows, d] on the CPU."""
        if self.copied is not None:
            self.copied.synchronize()
        states = self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)
        return states if self.order is None else states[:, self.order]
