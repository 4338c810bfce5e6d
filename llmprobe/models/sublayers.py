"""What a block's attention and MLP add to the residual stream: found by running it, not by name."""

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

SITES = ("attention", "mlp", "post_attention_norm")


@dataclass(frozen=True)
class Sublayers:
    """The modules, one a block, whose outputs are the sites inside the blocks.

    An output is the tensor, or the first of a tuple, at the moment when the module returns it: copy
    it in the hook, for the block may add to it in place (Falcon does).
    """

    attention: list[nn.Module] | None
    """They return what the attention adds to the residual stream.

    Whatever mixes tokens counts: a state-space layer that stands beside an MLP does too.
    """
    mlp: list[nn.Module] | None
    """They return what the MLP, or a mixture of experts, adds to the residual stream."""
    post_attention_norm: list[nn.Module] | None
    """What Jin et al. (2024) probe: the modules named ``post_attention_layernorm``.

    They return what the MLP reads; on Gemma 2, Gemma 3 and OLMo 2, what the attention adds. Without
    one, it is the norm that reads the residual stream after the attention.
    """
    error: float
    """Largest error, over blocks, of: residual before + attention + MLP = residual after.

    Relative to the sum of their magnitudes, and zero where repeating the model's own additions
    gives its own bits. Of blocks that normalise after each addition (BERT), it is the error of what
    their norms read. NaN where attention and MLP are missing.
    """
    missing: dict[str, str]
    """Why a site is None, in words."""


@torch.inference_mode()
def find_sublayers(model: nn.Module, blocks: list[nn.Module], input_ids: Tensor) -> Sublayers:
    """The submodules whose outputs each block adds to the residual stream, and the norm between.

    Two submodules are taken if their outputs, added to what enters the block, give what leaves it,
    to rounding: a block that scales them first has none. If norms follow the additions (BERT), the
    first sum must be what one norm reads, and that norm's output plus the second what the last norm
    reads. The attention is the one whose output at the last token changes when the block's input
    changes at the others. Each block is searched by itself.

    Parameters
    ----------
    blocks
        As ``find_blocks`` returns them.
    input_ids
        A short text to run, of two tokens or more. [1, tokens]
    """
    passes = _run(model, blocks, input_ids)
    changed = _run(model, blocks, input_ids, [_change_all_but_last(p.read) for p in passes])
    found: list[_Found] = []
    for here, there in zip(passes, changed, strict=True):
        found.append(_search(here, there, found[-1].pair if found else None))
    modules: dict[str, list[nn.Module] | None] = dict.fromkeys(SITES)
    missing: dict[str, str] = {}
    for site in SITES:
        lacking = [i for i, block in enumerate(found) if site in block.missing]
        if lacking:
            missing[site] = f"block {lacking[0] + 1} {found[lacking[0]].missing[site]}"
        else:
            modules[site] = [
                block.get_submodule(sites.paths[site])
                for block, sites in zip(blocks, found, strict=True)
            ]
    error = math.nan if "attention" in missing else max(block.error for block in found)
    return Sublayers(**modules, error=error, missing=missing)


@dataclass
class _Pass:
    """What one forward leaves in one block: copies, on the CPU."""

    start: Tensor | None = None
    """What the block is made to read instead of its input."""
    read: Tensor = field(default_factory=lambda: torch.empty(0))
    returned: Tensor = field(default_factory=lambda: torch.empty(0))
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """Of submodules that return as many numbers, by path; what finishes first stands first."""
    norms: dict[str, Tensor] = field(default_factory=dict)
    """What the norms among them read."""
    calls: Counter[str] = field(default_factory=Counter)

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hook before the block."""
        read = block_input(args, kwargs)
        if self.start is not None:
            start = self.start.to(read.device)
            args = tuple(start if v is read else v for v in args)
            kwargs = {k: start if v is read else v for k, v in kwargs.items()}
        self.read = block_input(args, kwargs).to("cpu", copy=True)
        return args, kwargs

    def leave(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """Hook after the block."""
        self.returned = hidden_state(output).to("cpu", copy=True)

    def finish(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Hook after a submodule."""
        self.calls[path] += 1
        output = self._copy(out[0] if isinstance(out, tuple) and out else out)
        if output is None:
            return
        self.outputs[path] = output
        read = self._copy(block_input(args, kwargs))
        if read is not None and "norm" in type(module).__name__.lower():
            self.norms[path] = read

    def _copy(self, state: Any) -> Tensor | None:
        """A state like the residual stream, in its shape: OPT, say, flattens batch and tokens."""
        stream = self.read
        if not isinstance(state, Tensor) or state.numel() != stream.numel():
            return None
        if state.shape[-1] != stream.shape[-1]:
            return None
        return state.to("cpu", copy=True).reshape(stream.shape)


def _run(
    model: nn.Module, blocks: list[nn.Module], input_ids: Tensor, starts: list[Tensor] | None = None
) -> list[_Pass]:
    """One forward; each block reads its own of the ``starts``, if given, instead of its input."""
    passes = [_Pass() for _ in blocks] if starts is None else [_Pass(start) for start in starts]
    handles: list[Any] = []
    for block, here in zip(blocks, passes, strict=True):
        handles.append(block.register_forward_pre_hook(here.enter, with_kwargs=True))
        handles.append(block.register_forward_hook(here.leave))
        for path, module in block.named_modules():
            if path:
                hook = partial(here.finish, path)
                handles.append(module.register_forward_hook(hook, with_kwargs=True))
    with hooked(handles):
        model(input_ids=input_ids, use_cache=False)
    for here in passes:
        # A module that runs twice, or in two blocks, has no one output for a hook to take.
        for path in [path for path, calls in here.calls.items() if calls > 1]:
            here.outputs.pop(path, None)
            here.norms.pop(path, None)
    return passes


def _change_all_but_last(state: Tensor) -> Tensor:
    """Other tokens than the last get their features shifted: norms stay, and no symmetry hides it.

    (LFM2's convolution multiplies two projections, which a mere change of sign would not show.)
    """
    return torch.cat([state[..., :-1, :].roll(1, -1), state[..., -1:, :]], dim=-2)


@dataclass(frozen=True)
class _Found:
    """The paths of a block's sites, and why others are missing."""

    pair: tuple[str, str] | None
    """The two that add to the stream; the one that finishes first stands first."""
    error: float
    paths: dict[str, str]
    missing: dict[str, str]


def _search(here: _Pass, changed: _Pass, previous: tuple[str, str] | None) -> _Found:
    """The sites of one block; ``changed`` is its pass with other tokens before the last."""
    pair, error = _find_pair(here, previous)
    paths: dict[str, str] = {}
    missing: dict[str, str] = {}
    beside = False
    if pair is None:
        reason = _why_no_pair(here)
    else:
        first, second = (_mixes_tokens(here, changed, path) for path in pair)
        reason = f"adds the outputs of {' and '.join(pair)}, but neither depends on other tokens"
        beside = first != second
        if first or second:
            paths["attention"], paths["mlp"] = pair if first else pair[::-1]
    if not paths:
        missing = {"attention": reason, "mlp": reason}
    norm = _norm_after(here, paths.get("attention"))
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
    return _Found(pair, error, paths, missing)


def _find_pair(
    here: _Pass, previous: tuple[str, str] | None
) -> tuple[tuple[str, str] | None, float]:
    """The two submodules whose outputs the block adds to what it reads, and the sum's error."""
    # Of those that return the same, the last: the attention, and not the projection at its end.
    distinct: dict[str, Tensor] = {}
    for path, output in here.outputs.items():
        distinct = {p: o for p, o in distinct.items() if not same(o, output)}
        distinct[path] = output
    errors = {pair: _pair_error(here, *pair) for pair in combinations(distinct, 2)}
    fitting = {pair: e for pair, e in errors.items() if e <= _tolerance(here.returned)}
    if previous in fitting:
        return previous, fitting[previous]
    best = min(fitting, key=fitting.__getitem__, default=None)
    return best, fitting[best] if best else math.nan


def _pair_error(here: _Pass, first: str, second: str) -> float:
    """Error of the block's sum, or the larger of two sums if a norm follows each."""
    u, v = here.outputs[first], here.outputs[second]
    errors = [_error(here.returned, here.read, u, v)]
    for (a, read), (b, last) in combinations(here.norms.items(), 2):
        if same(here.outputs[b], here.returned):
            errors.append(max(_error(read, here.read, u), _error(last, here.outputs[a], v)))
    return min(errors)


def _error(total: Tensor, *parts: Tensor) -> float:
    """How far ``parts`` are from adding up to ``total``, relative to their magnitudes.

    Added as the model adds, in the total's dtype and in the order that fits best, so that its own
    sum is met bit for bit, and in bfloat16 no other passes for it.
    """
    scale = sum(part.float().abs() for part in parts) + torch.finfo(torch.float32).tiny
    return min(
        float(((sum(order[1:], order[0]).float() - total.float()).abs() / scale).max())
        for order in permutations(part.to(total.dtype) for part in parts)
    )


def _tolerance(total: Tensor) -> float:
    """Enough for other roundings of a sum, and too little for any other sum."""
    return 4 * torch.finfo(total.dtype).eps


def _mixes_tokens(here: _Pass, changed: _Pass, path: str) -> bool:
    """Whether the output at the last token depends on the block's input at the others.

    Equal bits would be too much to ask: experts run in groups, whose sizes change the rounding.
    """
    before, after = (p.outputs[path][..., -1, :].float() for p in (here, changed))
    return float((after - before).norm()) > _tolerance(here.returned) * float(before.norm())


def _norm_after(here: _Pass, attention: str | None) -> str | None:
    named = "post_attention_layernorm"
    if named in here.outputs:
        return named
    if attention is None:
        return None
    added = here.outputs[attention]
    reading = [n for n, s in here.norms.items() if _error(s, here.read, added) <= _tolerance(s)]
    return next(iter(reading), None)


def _why_no_pair(here: _Pass) -> str:
    if not here.returned.isfinite().all():
        return "overflows: what it returns is not finite"
    tolerance = _tolerance(here.returned)
    for path, output in reversed(here.outputs.items()):
        if _error(here.returned, here.read, output) <= tolerance:
            return f"adds one thing ({path}) to the residual stream, not an attention and an MLP"
    return (
        "adds something else to the residual stream than what two of its modules return; it may "
        "scale or gate that first"
    )
