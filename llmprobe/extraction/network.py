"""Features of any torch network at its probe points, read inside the forward pass.

states = NetworkStates(network, images)  # [n, 1, 28, 28]
states.names                             # ["input", "conv1", "relu1", "pool1", …]
states.layer(1)                          # [n, d] float32
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from llmprobe.ground.errors import UserError, first_line, suggestion
from llmprobe.models.layers import as_it_was, hidden_state, hooked, same

MOST_HELD = 2**30
"""Bytes of features that one pass through the network may fill, unless one point alone has more."""

INPUT = "input"

Tap = Callable[[str, Any], None]
"""Function that takes the name of each point and the network's value there, in forward order."""


class NetworkStates:
    """The features that a network computes from ``inputs`` [n, …], a row for each example.

    A point is read when it is asked for, together with as many of the next ones as ``MOST_HELD``
    has room for: large feature maps are never all in memory, and few passes are needed. The network
    is in evaluation mode meanwhile, without gradients.

    Parameters
    ----------
    layers
        "all": every submodule without submodules of its own, in the order in which they run (one
        that runs again is ``name#2``). "operations": every operation, functional ones too, as
        torch.fx traces them. Or names of submodules or operations. With the first two, the input is
        point 0, and a point is left out if its features equal those of the one before (dropout,
        flatten).
    batch_size
        Number of examples in a pass.

    Raises
    ------
    UserError
        There is no such point, the network fails on the inputs, torch.fx cannot trace the network,
        or a feature is not finite.
    """

    names: list[str]
    """Names of the points, in forward order."""
    sizes: list[int]
    """Numbers of features at the points, d."""

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor | np.ndarray,
        layers: str | Sequence[str] = "all",
        batch_size: int = 256,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise UserError(f"module: {type(module).__name__!r}, expected a torch.nn.Module")
        try:
            inputs = torch.as_tensor(
                np.require(inputs, requirements="W") if isinstance(inputs, np.ndarray) else inputs
            )
        except (RuntimeError, TypeError, ValueError):
            raise UserError("inputs: not a tensor or an array of numbers, [n, …]") from None
        if not inputs.ndim or not len(inputs):
            raise UserError(f"inputs: shape {tuple(inputs.shape)}, expected one row an example")
        if batch_size < 1:
            raise UserError(f"batch_size: {batch_size}, expected 1 or more")
        weights = next(filter(Tensor.is_floating_point, module.parameters()), torch.empty(0))
        self._place = weights.device, weights.dtype if inputs.is_floating_point() else inputs.dtype
        self.inputs, self.batch_size = inputs, batch_size
        self._module = module
        self._lock = threading.Lock()
        self._held: dict[int, np.ndarray] = {}
        self._run = self._walk(layers)
        self.names, self.sizes = self._points(layers)

    @property
    def layers(self) -> list[int]:
        """Numbers of the points, in forward order."""
        return list(range(len(self.names)))

    def n_bytes(self, index: int) -> int:
        """Return the bytes that the features of one point take in memory."""
        return 4 * len(self.inputs) * self.sizes[index]

    def layer(self, index: int) -> np.ndarray:
        """Return the features at one point, [n, d] float32; a second call reads them again."""
        with self._lock:
            if index not in self._held:
                sizes = np.cumsum([self.n_bytes(point) for point in self.layers[index:]])
                count = max(1, int((sizes <= MOST_HELD).sum()))
                self._held.clear()
                self._held = self._read(self.layers[index : index + count])
            return self._held.pop(index)

    def _read(self, points: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the features at some points, from passes that end at the last of them."""
        n = len(self.inputs)
        arrays = {self.names[i]: np.empty((n, self.sizes[i]), np.float32) for i in points}
        for first in range(0, n, self.batch_size):
            missing = set(arrays)

            def tap(name: str, value: Any, first: int = first, missing: set[str] = missing) -> None:
                if name not in missing:
                    return
                rows, part = _rows(value), arrays[name][first : first + self.batch_size]
                if rows is None or rows.shape != part.shape:
                    raise UserError(
                        f"{name}: has features of shape {_shape(value)} for examples {first} to "
                        f"{first + len(part) - 1}; expected {part.shape}"
                    )
                finite = rows.isfinite().all(dim=1)
                if not bool(finite.all()):
                    example = first + int(finite.int().argmin())
                    raise UserError(f"{name}: example {example} has features that are not finite")
                torch.from_numpy(part).copy_(rows)
                missing.discard(name)
                if not missing:
                    raise _AllReadError

            self._pass(first, tap)
            if missing:
                raise UserError(f"{min(missing)}: was not reached by examples {first} and after")
        return {i: arrays[self.names[i]] for i in points}

    def _points(self, layers: str | Sequence[str]) -> tuple[list[str], list[int]]:
        """Run the first batch; return the names and the numbers of features of the points."""
        sizes: dict[str, int] = {}
        before: list[Tensor] = []

        def tap(name: str, value: Any) -> None:
            rows = _rows(value)
            if rows is None or len(rows) != len(self.inputs[: self.batch_size]):
                return
            if not before or not same(before[0], rows) or not isinstance(layers, str):
                sizes[name] = rows.shape[1]
            before[:] = [rows.clone()]  # The next point may change them in place.

        self._pass(0, tap)
        if isinstance(layers, str):
            names = list(sizes)
        else:
            for name in layers:
                if name not in sizes:
                    raise UserError(f"layers: {name!r} is no point here; {suggestion(name, sizes)}")
            names = [name for name in sizes if name in layers]
        if not names or names == [INPUT] != list(layers):
            raise UserError(
                "layers: none given" if not layers else "layers: no module of the network gives "
                "features, [n, …] of floating-point numbers"
            )  # fmt: skip
        return names, [sizes[name] for name in names]

    @torch.no_grad()
    def _pass(self, first: int, tap: Tap) -> None:
        """Run the batch that begins at example ``first``, until ``tap`` has all it wants."""
        device, dtype = self._place
        batch = self.inputs[first : first + self.batch_size].to(device, dtype, copy=True)
        try:
            with as_it_was(self._module):
                tap(INPUT, batch)
                self._run(batch, tap)
        except _AllReadError:
            pass
        except UserError:
            raise
        except Exception as error:  # Whatever the network's own code raises.
            raise UserError(
                f"the network fails on inputs of shape {tuple(batch.shape)}: {first_line(error)}"
            ) from error

    def _walk(self, layers: str | Sequence[str]) -> Callable[[Tensor, Tap], None]:
        """Return a function that runs a batch and gives each point to a tap."""
        if layers == "operations":
            return self._operations()
        if layers != "all" and (
            isinstance(layers, str) or not all(isinstance(name, str) for name in layers)
        ):
            raise UserError(f"layers: {layers!r}; expected 'all', 'operations' or a list of names")
        if layers == "all":
            wanted = {
                name or type(part).__name__.lower(): part
                for name, part in self._module.named_modules()
                if _is_leaf(name, part)
            }
        else:
            modules = dict(self._module.named_modules(remove_duplicate=False))
            names = _bare(layers)
            wanted = {name: modules[name] for name in names if name in modules}
            if len(wanted) < len(names - {INPUT}):
                # The others may be operations; if not, the error names all points there are.
                return self._operations()
        return lambda batch, tap: _run_modules(self._module, wanted, batch, tap)

    def _operations(self) -> Callable[[Tensor, Tap], None]:
        """Return a function that runs a batch operation by operation."""
        try:
            with as_it_was(self._module):
                graph = fx.symbolic_trace(self._module)
        except Exception as error:  # Whatever the network's own code raises on a symbolic input.
            modules = ", ".join(name for name, _ in self._module.named_modules() if name)
            raise UserError(
                f"layers: torch.fx cannot trace this network ({first_line(error)}); use 'all', or "
                f"names of its modules: {modules}"
            ) from None
        return lambda batch, tap: _Operations(graph, tap).run(batch)


class _AllReadError(Exception):
    """Ends a pass when all that is wanted is read."""


class _Operations(fx.Interpreter):
    """Runs a graph and gives a tap the value of each operation."""

    def __init__(self, graph: fx.GraphModule, tap: Tap) -> None:
        super().__init__(graph)
        self.extra_traceback = False  # It rewrites the messages of errors.
        self.tap = _numbered(tap)
        self.modules = {node.target for node in graph.graph.nodes if node.op == "call_module"}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if node.op == "call_module":
            self.tap(str(node.target), value)
        elif node.op.startswith("call_"):
            self.tap(f"{node.name}()" if node.name in self.modules else node.name, value)
        return value


def _run_modules(module: nn.Module, parts: dict[str, nn.Module], batch: Tensor, tap: Tap) -> None:
    numbered = _numbered(tap)

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, __, output: numbered(name, output)

    with hooked([part.register_forward_hook(hook(name)) for name, part in parts.items()]):
        module(batch)


def _numbered(tap: Tap) -> Tap:
    """Return a tap that adds ``#2``, ``#3``, … to a name that comes again."""
    times = Counter([INPUT])  # The input came before all.

    def numbered(name: str, value: Any) -> None:
        times[name] += 1
        tap(name if times[name] == 1 else f"{name}#{times[name]}", value)

    return numbered


def _is_leaf(name: str, part: nn.Module) -> bool:
    """Whether a module computes by itself: it has no parts, or only those of its weights."""
    if "parametrizations" in name.split("."):
        return False
    parts = [child for child, _ in part.named_children() if child != "parametrizations"]
    return not parts or isinstance(part, nn.MultiheadAttention)


def _bare(names: Sequence[str]) -> set[str]:
    return {name.partition("#")[0] for name in names}


def _rows(value: Any) -> Tensor | None:
    """Return a module's output as features [batch, d]; None if it is no floating-point tensor."""
    value = hidden_state(value) if isinstance(value, tuple) and value else value
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    return value.detach().reshape(len(value), -1).float() if value.ndim and value.numel() else None


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
