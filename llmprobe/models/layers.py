"""The blocks of a model: found by running it, not looked up by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.ground.errors import UserError
from llmprobe.models.private import experts_by_token

Record = dict[nn.Module, list[Tensor]]
"""The hidden states of each module, one for each of its runs."""


def hidden_state(output: Any) -> Tensor:
    """Return the hidden state in what a module returns: the tensor, or the first of several."""
    state: Tensor = output if isinstance(output, Tensor) else output[0]
    return state


def block_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden state in what a module is called with: the first tensor."""
    return next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), torch.empty(0))


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two states are equal, bit for bit; NaN, which an overflow leaves, equals itself."""
    if a.shape != b.shape:
        return False
    b = b.to(a.device)  # The blocks of a model can be on several.
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Remove the hooks when the block ends, however it ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def left_out(blocks: Sequence[nn.Module], in_tuples: bool) -> Iterator[None]:
    """Make blocks return their input unchanged while a ``with`` block lasts.

    Parameters
    ----------
    in_tuples
        Whether blocks return a tuple that begins with the states.
    """

    def unchanged(*args: Any, **kwargs: Any) -> Any:
        states = block_input(args, kwargs)
        return (states, None) if in_tuples else states

    # Where accelerate moves the parts of a model, it has given blocks a forward of their own.
    own = {block: vars(block)["forward"] for block in blocks if "forward" in vars(block)}
    for block in blocks:
        vars(block)["forward"] = unchanged
    try:
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]
        for block, forward in own.items():
            vars(block)["forward"] = forward


def given_states(block: nn.Module, states: Callable[[Tensor], Tensor]) -> Any:
    """Replace the states that enter a block. -> handle of the hook

    Parameters
    ----------
    states
        Function from the states that arrive to those that the block gets, of the same shape.
    """

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = block_input(args, kwargs)
        after = states(before).reshape(before.shape).to(before.device)
        if args:
            return (after, *args[1:]), kwargs
        name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        return args, {**kwargs, name: after}

    return block.register_forward_pre_hook(hook, with_kwargs=True)


@contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """Put a network into eval mode while a ``with`` block lasts; restore each part's mode after."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _run_recorded(
    model: nn.Module, modules: Iterable[nn.Module], input_ids: Tensor, **options: bool
) -> tuple[Record, Record, Any]:
    """Run a model; return what each module read and returned, at each of its runs, and the output.

    A module that returns no hidden state has an empty tensor in its place.
    """
    read: Record = defaultdict(list)
    returned: Record = defaultdict(list)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read[module].append(block_input(args, kwargs))

    def after(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        state = hidden_state(output) if isinstance(output, Tensor | tuple) else None
        returned[module].append(state if isinstance(state, Tensor) else torch.empty(0))

    handles: list[Any] = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    with hooked(handles):
        return read, returned, model(input_ids=input_ids, use_cache=False, **options)


@torch.inference_mode()
def find_blocks(model: nn.Module, input_ids: Tensor) -> list[nn.Module]:
    """Find the transformer blocks, in the order in which the forward passes through them.

    They are the longest list of modules inside ``model`` whose members run one after the other,
    each once and each reading what the one before it returned.

    Parameters
    ----------
    input_ids
        A short text to run. [1, tokens]

    Raises
    ------
    UserError
        The model needs more than a text, or has no such list: it is not a stack of blocks.
    """
    lists = [list(m) for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    members = dict.fromkeys(block for blocks in lists for block in blocks)
    try:
        read, returned, _ = _run_recorded(model, members, input_ids)
    except (TypeError, ValueError) as error:
        raise UserError(f"{type(model).__name__} does not run on a text alone: {error}") from None

    def is_stack(blocks: list[nn.Module]) -> bool:
        ran_once = all(len(returned[b]) == 1 == len(read[b]) for b in blocks)
        return ran_once and all(same(read[b][0], returned[a][0]) for a, b in pairwise(blocks))

    stacks = [blocks for blocks in lists if is_stack(blocks)]
    if not stacks:
        raise UserError(
            f"{type(model).__name__}: found no list of blocks that its forward passes through in "
            "order, so there are no layers to probe"
        )
    return max(stacks, key=len)


@torch.inference_mode()
def verify_blocks(model: nn.Module, blocks: list[nn.Module], input_ids: Tensor) -> str:
    """Check the blocks against the hidden states that the model itself returns.

    Layer 0 … L-1 of ``output_hidden_states`` must be, bit for bit, what enters block 1 … L.
    Return what the model does after the last block (``"LlamaRMSNorm"``, or ``"nothing"``).

    Raises
    ------
    UserError
        They differ, so that layers of this model would be mislabelled; or they are not one state
        for each token.
    """
    read, returned, output = _run_recorded(model, blocks, input_ids, output_hidden_states=True)
    own = output.hidden_states
    if own is None or len(own) != len(blocks) + 1:
        n = 0 if own is None else len(own)
        raise UserError(
            f"{type(model).__name__}: found {len(blocks)} blocks, but the model returns {n} hidden "
            f"states (expected {len(blocks) + 1})"
        )
    last = returned[blocks[-1]][0]
    states = [*(read[block][0] for block in blocks), last]
    # Some modules flatten the batch. Gemma 3n's blocks pass on several streams.
    several = [list(s.shape) for s in states if s.numel() != input_ids.numel() * s.shape[-1]]
    if several:
        raise UserError(
            f"{type(model).__name__}: its blocks pass on states of shape {several[0]} for "
            f"{input_ids.numel()} tokens; layers can be read where each token has one state, "
            "[texts, tokens, width]"
        )
    # Mamba's list leaves out what enters block 1, but holds the last block's output raw as well.
    skipped = int(not same(states[0], own[0]))
    for i in range(len(blocks)):
        if not same(states[i + skipped], own[i]):
            raise UserError(
                f"{type(model).__name__}: what enters block {i + 1} is not the model's own hidden "
                f"state {i}, so its layers cannot be told"
            )
    if same(last, output.last_hidden_state):
        return "nothing"
    norm = final_norm(model)
    return "a transformation" if norm is None else type(norm).__name__


def final_norm(model: nn.Module) -> nn.Module | None:
    """Return the norm after the last block, None where it is not found."""
    norms = [m for m in model.children() if "norm" in type(m).__name__.lower()]
    return norms[-1] if norms else None


@torch.inference_mode()
def is_causal(model: nn.Module, input_ids: Tensor) -> bool:
    """Whether changing the last token leaves all states before it the same, bit for bit."""
    other = input_ids.clone()
    other[:, -1] = input_ids[:, 0]
    with experts_by_token(model):
        states = [
            model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            for ids in (input_ids, other)
        ]
    return same(*states)
