"""The last token of texts, run again from a layer on with other states than its own.

Nothing before the last token depends on it, so the keys and values of what stands before it stay as
they are: one pass over each text makes them, and any number of changed states of its last token are
then run beside each other, as siblings that see the text before them and themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.extraction.prefix_tree import (
    MOST_MULTIPLIED,
    AncestorPath,
    PathCache,
    masks,
    multiplied,
    tree_can_run,
)
from llmprobe.ground.errors import UserError
from llmprobe.models.layers import given_states, hidden_state, hooked, left_out
from llmprobe.models.loading import LoadedModel, example_input
from llmprobe.models.private import plain_attention

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Relative difference to whole texts that rounding explains, after up to all blocks."""


@dataclass(frozen=True)
class KeptTexts:
    """Some texts before their last token."""

    last: Tensor
    """The last token of each. [texts]"""
    lengths: Tensor
    """How many tokens stand before it. [texts]"""
    path: AncestorPath
    """The keys and values of those, padded on the right to one length."""


class LastToken:
    """Runs changed states of the last token of texts through the blocks that are left.

    Raises
    ------
    UserError
        A token's state depends on what stands to its right, or the model does not take a token by
        itself beside keys and values.
    """

    def __init__(self, model: LoadedModel) -> None:
        if not model.causal:
            raise UserError(f"model {model.name!r}: its states depend on the tokens to their right "
                            "(an encoder), so it does not say what comes next")  # fmt: skip
        if not tree_can_run(model.module):
            raise UserError(f"model {model.name!r}: its last token cannot be run by itself on the "
                            "keys and values of the text before it")  # fmt: skip
        self.model, self.device = model, model.device
        self._in_tuples = _return_tuples(model)

    @torch.inference_mode()
    def keep(self, texts: Sequence[Sequence[int]]) -> KeptTexts:
        """Run some texts, each of one token or more, up to their last token."""
        device = self.model.device
        lengths = torch.tensor([len(tokens) - 1 for tokens in texts])
        width = int(lengths.max())
        last = torch.tensor([tokens[-1] for tokens in texts], device=device)
        path = AncestorPath()
        if width:
            padded = torch.zeros(len(texts), width, dtype=torch.long)
            for row, tokens in zip(padded, texts, strict=True):
                row[: len(tokens) - 1] = torch.tensor(tokens[:-1], dtype=torch.long)
            index = torch.arange(width, device=device)
            cache = PathCache(path, index)
            self._run(padded.to(device), index[None], index <= index[:, None], cache, 0)
            path = AncestorPath(width, cache.kept)
        return KeptTexts(last, lengths.to(device), path)

    @torch.inference_mode()
    def run(self, texts: KeptTexts, layer: int, states: Tensor) -> Tensor:
        """Return what comes out of the last block, before the final norm, for states at a layer.

        Parameters
        ----------
        layer
            Where the states stand: 0 enters block 1, and i leaves block i.
        states
            Any number of states of the last token of each text. [texts, states, d]
        """
        model, device = self.model, self.model.device
        states = states.to(device, model.dtype)
        if layer == model.n_blocks:
            return states
        n, width = states.shape[1], texts.path.length
        own = torch.eye(n, dtype=torch.bool, device=device).expand(len(states), n, n)
        before = torch.arange(width, device=device) < texts.lengths[:, None]
        seen = torch.cat([before[:, None].expand(-1, n, -1), own], dim=2)
        cache = PathCache(texts.path, torch.empty(0, dtype=torch.long, device=device))
        read: list[Tensor] = []
        block, last = model.blocks[layer], model.blocks[-1]
        with (
            left_out(model.blocks[:layer], self._in_tuples),
            hooked([
                given_states(block, lambda _: states),
                last.register_forward_hook(lambda *args: read.append(hidden_state(args[-1]))),
            ]),
        ):  # fmt: skip
            position = texts.lengths[:, None].expand(-1, n)
            self._run(texts.last[:, None].expand(-1, n), position, seen, cache, width)
        return read[0].reshape(states.shape).to(device)

    def _run(
        self, tokens: Tensor, position: Tensor, seen: Tensor, cache: PathCache, above: int
    ) -> None:
        model = self.model
        seen = seen if seen.ndim == 3 else seen[None]
        with self._attention(above + tokens.shape[1]):
            model.module(
                input_ids=tokens,
                position_ids=position.expand(len(tokens), -1),
                attention_mask=masks(model, seen, position, above),
                past_key_values=cache,
                use_cache=True,
            )

    def _attention(self, width: int) -> AbstractContextManager[None]:
        by_products = multiplied(self.model) and width <= MOST_MULTIPLIED
        return plain_attention(self.model.module) if by_products else nullcontext()


@torch.inference_mode()
def run_whole(model: LoadedModel, tokens: Sequence[int], layer: int, states: Tensor) -> Tensor:
    """Return what ``LastToken.run`` does for one text, by running all of it with each state.

    Parameters
    ----------
    states
        States of its last token at the layer. [states, d]
    """
    if layer == model.n_blocks:
        return states.to(model.device, model.dtype)
    n, read = len(states), []

    def replace(whole: Tensor) -> Tensor:
        changed = whole.clone().view(n, len(tokens), -1)
        changed[:, -1] = states.to(whole)
        return changed

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        read.append(hidden_state(output).view(n, len(tokens), -1)[:, -1])

    with hooked([
        given_states(model.blocks[layer], replace),
        model.blocks[-1].register_forward_hook(keep),
    ]):  # fmt: skip
        ids = torch.tensor([list(tokens)] * n, device=model.device)
        model.module(input_ids=ids, use_cache=False)
    return read[0].to(model.device)


def require_parity(model: LoadedModel, texts: Sequence[Sequence[int]], states: Tensor) -> float:
    """Compare the last token alone with whole texts, at a layer in the middle; return how far.

    Parameters
    ----------
    texts
        A few, of different lengths.
    states
        Other states of the last token of each at layer ``n_blocks // 2``. [texts, d]

    Raises
    ------
    UserError
        They are further from each other than rounding explains.
    """
    layer, runner = model.n_blocks // 2, LastToken(model)
    alone = runner.run(runner.keep(texts), layer, states[:, None])[:, 0].float()
    whole = torch.cat([run_whole(model, tokens, layer, state[None])
                       for tokens, state in zip(texts, states, strict=True)]).float()  # fmt: skip
    difference = float(((alone - whole).norm(dim=1) / whole.norm(dim=1)).max())
    if not difference <= TOLERANCE[model.dtype]:
        raise UserError(
            f"model {model.name!r}: its last token run by itself on the keys and values of the "
            f"text differs by {difference:.1e} from the whole text, so its states cannot be changed"
        )
    return difference


@torch.inference_mode()
def _return_tuples(model: LoadedModel) -> bool:
    """Whether the blocks of a model return their states as the first of several things."""
    read: list[Any] = []
    with hooked([model.blocks[0].register_forward_hook(lambda *args: read.append(args[-1]))]):
        model.module(input_ids=example_input(model.module, model.device), use_cache=False)
    return not isinstance(read[0], Tensor)
