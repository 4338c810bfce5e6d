"""The sub-layers of a block: found by running it and adding up, not looked up by name."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, permutations
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.models.layers import block_input, hidden_state, hooked, same

SUBLAYERS = ("attention", "mlp", "post_attention_norm")


@dataclass(frozen=True)
class Sublayers:
    """The modules, one for each block, whose outputs are the sites inside the blocks.

    The output is the tensor that a module returns, or the first of a tuple. It must be copied in
    the hook, since the block may add to it in place afterwards (Falcon does).
    """

    attention: list[nn.Module] | None
    """The modules that return what the attention adds to the residual stream.

    Whatever mixes tokens counts: a state-space layer that stands beside an MLP does too.
    """
    mlp: list[nn.Module] | None
    """The modules that return what the MLP, or a mixture of experts, adds to the stream."""
    post_attention_norm: list[nn.Module] | None
    """The modules named ``post_attention_layernorm``, which Jin et al. (2024) probe.

    They return what the MLP reads; on Gemma 2, Gemma 3 and OLMo 2, what the attention adds. Without
    one, it is the norm that reads the residual stream after the attention.
    """
    error: float
    """Largest error, over blocks, of: residual before + attention + MLP = residual after.

    It is relative to the sum of their magnitudes, and zero where repeating the model's own
    additions gives its own bits. For blocks that normalise after each addition (BERT), it is the
    error of what their norms read. NaN where attention and MLP are missing.
    """
    missing: dict[str, str]
    """Why a sub-layer is None, in words, by its name."""


@torch.inference_mode()
def find_sublayers(model: nn.Module, blocks: list[nn.Module], input_ids: Tensor) -> Sublayers:
    """Find the submodules whose outputs each block adds to the stream, and the norm between.

    Two submodules are taken if their outputs, added to what enters the block, give what leaves it,
    to rounding; a block that scales them first has no such pair. If norms follow the additions
    (BERT), the first sum must equal the input of one norm, and that norm's output plus the second
    submodule's must equal the input of the last norm. The attention is the one whose output at the
    last token changes when the block's input changes at the others. Each block is searched by
    itself.

    Parameters
    ----------
    blocks
        The blocks of the model, as ``find_blocks`` returns them.
    input_ids
        A short text to run, of two tokens or more. [1, tokens]
    """
    records = _run(model, blocks, input_ids)
    changed = _run(model, blocks, input_ids, [_change_all_but_last(r.read) for r in records])
    searches: list[_Search] = []
    for record, other in zip(records, changed, strict=True):
        searches.append(_search(record, other, searches[-1].pair if searches else None))
    modules: dict[str, list[nn.Module] | None] = dict.fromkeys(SUBLAYERS)
    missing: dict[str, str] = {}
    for name in SUBLAYERS:
        lacking = [i for i, search in enumerate(searches) if name in search.missing]
        if lacking:
            missing[name] = f"block {lacking[0] + 1} {searches[lacking[0]].missing[name]}"
        else:
            modules[name] = [
                block.get_submodule(search.paths[name])
                for block, search in zip(blocks, searches, strict=True)
            ]
    error = math.nan if "attention" in missing else max(search.error for search in searches)
    return Sublayers(**modules, error=error, missing=missing)


@dataclass
class _Record:
    """What goes through one block in one forward pass, copied to the CPU."""

    start: Tensor | None = None
    """The states that the block is made to read instead of its input."""
    read: Tensor = field(default_factory=lambda: torch.empty(0))
    """The residual stream before the block."""
    returned: Tensor = field(default_factory=lambda: torch.empty(0))
    """The residual stream after the block."""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """Outputs of the submodules that return states of the stream's size, by path, as they end."""
    norms: dict[str, Tensor] = field(default_factory=dict)
    """Inputs of the norms among those submodules, by path."""
    calls: Counter[str] = field(default_factory=Counter)
    """How often each submodule ran, by path."""

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note what the block reads: its input, or ``start`` in place of it."""
        read = block_input(args, kwargs)
        if self.start is not None:
            start = self.start.to(read.device)
            args = tuple(start if v is read else v for v in args)
            kwargs = {k: start if v is read else v for k, v in kwargs.items()}
        self.read = block_input(args, kwargs).to("cpu", copy=True)
        return args, kwargs

    def leave(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """Note what the block returns."""
        self.returned = hidden_state(output).to("cpu", copy=True)

    def finish(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Note what a submodule returns, and what it reads if it is a norm."""
        self.calls[path] += 1
        output = self._copy(out[0] if isinstance(out, tuple) and out else out)
        if output is None:
            return
        self.outputs[path] = output
        read = self._copy(block_input(args, kwargs))
        if read is not None and "norm" in type(module).__name__.lower():
            self.norms[path] = read

    def _copy(self, state: Any) -> Tensor | None:
        """Copy a state like the residual stream, in its shape: OPT flattens batch and tokens."""
        stream = self.read
        if not isinstance(state, Tensor) or state.numel() != stream.numel():
            return None
        if state.shape[-1] != stream.shape[-1]:
            return None
        return state.to("cpu", copy=True).reshape(stream.shape)


def _run(
    model: nn.Module, blocks: list[nn.Module], input_ids: Tensor, starts: list[Tensor] | None = None
) -> list[_Record]:
    """Run the model once; blocks read the ``starts``, if any, in place of their inputs."""
    records = [_Record(start) for start in starts] if starts else [_Record() for _ in blocks]
    handles: list[Any] = []
    for block, record in zip(blocks, records, strict=True):
        handles.append(block.register_forward_pre_hook(record.enter, with_kwargs=True))
        handles.append(block.register_forward_hook(record.leave))
        for path, module in block.named_modules():
            if path:
                hook = partial(record.finish, path)
                handles.append(module.register_forward_hook(hook, with_kwargs=True))
    with hooked(handles):
        model(input_ids=input_ids, use_cache=False)
    for record in records:
        # A module that runs twice, or in two blocks, has no single output for a hook to take.
        for path in [path for path, calls in record.calls.items() if calls > 1]:
            record.outputs.pop(path, None)
            record.norms.pop(path, None)
    return records


def _change_all_but_last(state: Tensor) -> Tensor:
    """Shift the features of all tokens but the last: norms stay, and no symmetry hides the change.

    (LFM2's convolution multiplies two projections, which a mere change of sign would not show.)
    """
    return torch.cat([state[..., :-1, :].roll(1, -1), state[..., -1:, :]], dim=-2)


@dataclass(frozen=True)
class _Search:
    """The paths of a block's sub-layers, and why others are missing."""

    pair: tuple[str, str] | None
    """Paths of the two submodules that add to the stream; the first to finish stands first."""
    error: float
    """Error of the block's sum."""
    paths: dict[str, str]
    """Paths of the sub-layers that were found, by their names."""
    missing: dict[str, str]
    """Why the others were not found, by their names."""


def _search(record: _Record, changed: _Record, previous: tuple[str, str] | None) -> _Search:
    """Find the sub-layers of one block; in ``changed`` all tokens but the last are different."""
    pair, error = _find_pair(record, previous)
    paths: dict[str, str] = {}
    missing: dict[str, str] = {}
    beside = False
    if pair is None:
        reason = _why_no_pair(record)
    else:
        first, second = (_mixes_tokens(record, changed, path) for path in pair)
        reason = f"adds the outputs of {' and '.join(pair)}, but neither depends on other tokens"
        beside = first != second
        if first or second:
            paths["attention"], paths["mlp"] = pair if first else pair[::-1]
    if not paths:
        missing = {"attention": reason, "mlp": reason}
    norm = _norm_after(record, paths.get("attention"))
    if norm is not None:
        paths["post_attention_norm"] = norm
    elif beside:
        missing["post_attention_norm"] = (
            "has no norm after its attention: attention and MLP stand side by side"
        )
    else:
        missing["post_attention_norm"] = missing.get(
            "attention", "has no norm that reads the residual stream after the attention"
        )
    return _Search(pair, error, paths, missing)


def _find_pair(
    record: _Record, previous: tuple[str, str] | None
) -> tuple[tuple[str, str] | None, float]:
    """Find the two submodules whose outputs the block adds to its input; return the sum's error."""
    # Of submodules that return the same, the last is kept: the attention, not its projection.
    distinct: dict[str, Tensor] = {}
    for path, output in record.outputs.items():
        distinct = {p: o for p, o in distinct.items() if not same(o, output)}
        distinct[path] = output
    errors = {pair: _pair_error(record, *pair) for pair in combinations(distinct, 2)}
    fitting = {pair: e for pair, e in errors.items() if e <= _tolerance(record.returned)}
    if previous in fitting:
        return previous, fitting[previous]
    best = min(fitting, key=fitting.__getitem__, default=None)
    return best, fitting[best] if best else math.nan


def _pair_error(record: _Record, first: str, second: str) -> float:
    """Return the error of the block's sum, or the larger of two sums if a norm follows each."""
    u, v = record.outputs[first], record.outputs[second]
    errors = [_error(record.returned, record.read, u, v)]
    for (a, read), (b, last) in combinations(record.norms.items(), 2):
        if same(record.outputs[b], record.returned):
            errors.append(max(_error(read, record.read, u), _error(last, record.outputs[a], v)))
    return min(errors)


def _error(total: Tensor, *parts: Tensor) -> float:
    """Return how far ``parts`` are from adding up to ``total``, relative to their magnitudes.

    They are added as the model adds them, in the total's dtype and in the order that fits best. So
    the model's own sum is met bit for bit, and in bfloat16 no other sum passes for it.
    """
    scale = sum(part.float().abs() for part in parts) + torch.finfo(torch.float32).tiny
    return min(
        float(((sum(order[1:], order[0]).float() - total.float()).abs() / scale).max())
        for order in permutations(part.to(total.dtype) for part in parts)
    )


def _tolerance(total: Tensor) -> float:
    """Return the largest error that another rounding of the same sum explains."""
    return 4 * torch.finfo(total.dtype).eps


def _mixes_tokens(record: _Record, changed: _Record, path: str) -> bool:
    """Whether the output at the last token depends on the block's input at the others.

    Equal bits would be too much to ask: experts run in groups, whose sizes change the rounding.
    """
    before, after = (r.outputs[path][..., -1, :].float() for r in (record, changed))
    return float((after - before).norm()) > _tolerance(record.returned) * float(before.norm())


def _norm_after(record: _Record, attention: str | None) -> str | None:
    """Return the path of the norm between attention and MLP, None without one."""
    named = "post_attention_layernorm"
    if named in record.outputs:
        return named
    if attention is None:
        return None
    added = record.outputs[attention]
    reading = [n for n, s in record.norms.items() if _error(s, record.read, added) <= _tolerance(s)]
    return next(iter(reading), None)


def _why_no_pair(record: _Record) -> str:
    """Return why no two submodules make the block's sum, in words."""
    if not record.returned.isfinite().all():
        return "overflows: what it returns is not finite"
    tolerance = _tolerance(record.returned)
    for path, output in reversed(record.outputs.items()):
        if _error(record.returned, record.read, output) <= tolerance:
            return f"adds one thing ({path}) to the residual stream, not an attention and an MLP"
    return (
        "adds something else to the residual stream than what two of its modules return; it may "
        "scale or gate that first"
    )
