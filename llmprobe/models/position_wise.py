"""The parts of a block that need to run only at the tokens whose states are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.models.layers import block_input, hidden_state, hooked
from llmprobe.models.loading import LoadedModel, example_input
from llmprobe.models.private import in_float32

_TOLERANCE = 1e-5
"""Relative difference in float32 that another size of the matrix products explains."""


_REFUSALS = (TypeError, ValueError, LookupError, AttributeError, AssertionError, RuntimeError)
"""What a model's code may raise for a batch of another shape."""

Chosen = tuple[Tensor, tuple[int, int]]
"""Indices of tokens in a flattened batch, and the shape of that batch: texts and tokens."""


def at_some_tokens(module: nn.Module, choose: Callable[[], Chosen | None]) -> list[Any]:
    """Make a module run only at some tokens, and return zeros at all others. -> handles of hooks

    Parameters
    ----------
    choose
        Function that returns the tokens, None for all. It is called before and after each run.
    """

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if (chosen := choose()) is None:
            return None
        index, shape = chosen
        states = block_input(args, kwargs)
        # Some modules flatten the batch.
        if states.shape[:-1] not in (shape, (shape[0] * shape[1],)):
            raise ValueError(f"states of shape {list(states.shape)}, expected {[*shape, 'd']}")
        some = states.flatten(0, -2).index_select(0, index.to(states.device))
        some = some[None] if states.ndim == 3 else some
        args = tuple(some if value is states else value for value in args)
        return args, {name: some if v is states else v for name, v in kwargs.items()}

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if (chosen := choose()) is None:
            return None
        index, shape = chosen
        some = hidden_state(output)
        states = some.new_zeros(shape[0] * shape[1], some.shape[-1])
        states.index_copy_(0, index.to(some.device), some.flatten(0, -2))
        states = states.view(*shape, -1) if some.ndim == 3 else states
        return states if isinstance(output, Tensor) else (states, *output[1:])

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]


class _ReachedError(Exception):
    """Ends a forward pass at a block."""


def _inputs(model: LoadedModel, block: nn.Module, example: Tensor) -> tuple[Any, Any]:
    """Return the arguments with which a block is called; it and later blocks are not run."""
    called: list[tuple[Any, Any]] = []

    def reached(_: nn.Module, args: Any, kwargs: Any) -> None:
        called.append((args, kwargs))
        raise _ReachedError

    handle = block.register_forward_pre_hook(reached, with_kwargs=True)
    with hooked([handle]), suppress(_ReachedError):
        model.module(input_ids=example, use_cache=False)
    return called[0]


@torch.no_grad()  # in_float32 cannot take a view of a weight in inference mode.
def find_position_wise(model: LoadedModel, layer: int) -> list[nn.Module]:
    """Find the largest parts of block ``layer`` that need to run only at the tokens that are read.

    They are found by running the block in float32: if such a part runs at the last token only, the
    block's output there stays the same. Everything after the attention is such a part, and so are
    the queries; keys and values are not. A quantised model has none.
    """
    if model.quantised:
        return []
    block = model.blocks[layer - 1]
    example = example_input(model.module, model.device)
    args, kwargs = _inputs(model, block, example)
    n = example.shape[1]
    last: Chosen = (torch.tensor([n - 1], device=model.device), (1, n))

    def output(parts: Sequence[nn.Module]) -> Tensor:
        handles = [handle for part in parts for handle in at_some_tokens(part, lambda: last)]
        with in_float32(), hooked(handles):
            return hidden_state(block(*args, **kwargs)).reshape(n, -1)[-1]

    def is_same(parts: Sequence[nn.Module]) -> bool:
        try:
            difference = output(parts) - expected
        except _REFUSALS:
            return False  # Its input is not one state for each token.
        return float(difference.norm()) <= _TOLERANCE * float(expected.norm())

    def parts_of(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            # A part with few weights costs as much to skip as to run.
            if sum(p.numel() for p in child.parameters()) < 8 * model.hidden_size:
                continue
            if is_same([child]):
                yield child
            else:
                yield from parts_of(child)

    try:
        expected = output([])
    except _REFUSALS:
        return []
    found = list(parts_of(block))
    return found if is_same(found) else []
