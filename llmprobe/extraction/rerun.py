"""Texts run again from a layer on with other states at some of their tokens.

Nothing before the first changed token depends on it, so one pass over each text makes the keys and
values of the tokens before it. Any number of changed versions of the text are then run side by side
from that token on, and each sees the tokens before it and its own. If only the last token is
changed, a version is one token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.extraction.prefix_tree import AncestorPath, PathCache, masks, tree_can_run
from llmprobe.extraction.tokens import Text
from llmprobe.ground.errors import UserError
from llmprobe.models.devices import to_device
from llmprobe.models.layers import block_input, given_states, hidden_state, hooked, left_out
from llmprobe.models.loading import LoadedModel, example_input

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Relative difference from whole texts that rounding explains, even after all blocks."""

_BESIDE = 512
"""Tokens of versions of one text that are run side by side: attention compares each with all."""


@dataclass(frozen=True)
class KeptTexts:
    """Unchanged texts, from the first token to be changed on, and what that token sees."""

    tokens: Tensor
    """The token ids from there on, padded on the right. [texts, rest]"""
    start: Tensor
    """How many tokens stand before. [texts]"""
    end: Tensor
    """The index in ``tokens`` of the last token of each text. [texts]"""
    share: Tensor
    """The weight of each token in the mean that is changed, 0 outside of it. [texts, rest]"""
    states: Sequence[Tensor]
    """The states of ``tokens`` at each layer. Each [texts, rest, d]"""
    path: AncestorPath
    """The keys and values of the tokens before, padded on the right to one length."""

    def changed(self, layer: int, states: Tensor) -> Tensor:
        """Return the states of the tokens at a layer, moved so that their mean is ``states``.

        All tokens in the mean are moved alike. [texts, n, d] -> [texts, n, rest, d]
        """
        own, share = self.states[layer].float(), self.share[..., None]
        change = states.float() - (own * share).sum(dim=1, keepdim=True)
        return own[:, None] + change[:, :, None] * (share > 0)[:, None]

    def last(self, states: Tensor) -> Tensor:
        """Return the states of the last token. [texts, n, rest, d] -> [texts, n, d]"""
        return states[torch.arange(len(states), device=states.device), :, self.end]


class Rerun:
    """Runs texts again from a layer on, with other states at their first place.

    Raises
    ------
    UserError
        A token's state depends on what stands to its right, or the model does not accept tokens
        with the keys and values of those before them.
    """

    def __init__(self, model: LoadedModel) -> None:
        if not model.causal:
            raise UserError(f"model {model.name!r}: its states depend on the tokens to their right "
                            "(an encoder), so it does not predict the next token")  # fmt: skip
        if not tree_can_run(model.module):
            raise UserError(f"model {model.name!r}: its last token cannot be run by itself on the "
                            "keys and values of the text before it")  # fmt: skip
        self.model, self.device = model, model.device
        self._in_tuples = _return_tuples(model)

    @torch.inference_mode()
    def keep(self, texts: Sequence[Text]) -> KeptTexts:
        """Run some texts unchanged, and keep what ``run`` needs to change their first place."""
        device, blocks = self.model.device, self.model.blocks
        places = [text.places[0] for text in texts]
        lengths = torch.tensor([len(text.tokens) for text in texts])
        start = torch.tensor([place[0] for place in places])
        rest, width = int((lengths - start).max()), int(start.max())
        ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
        share = torch.zeros(len(texts), rest)
        for row, (text, place) in enumerate(zip(texts, places, strict=True)):
            ids[row, : len(text.tokens)] = torch.tensor(text.tokens)
            share[row, torch.tensor(place) - place[0]] = 1 / len(place)
        index = torch.arange(ids.shape[1], device=device)
        # What is beyond the end of a text is not looked at.
        beyond = torch.minimum(start[:, None] + torch.arange(rest), lengths[:, None] - 1)
        rows = torch.arange(len(texts))[:, None]
        states: list[Tensor] = []

        def read(state: Tensor) -> None:
            whole = state.reshape(*ids.shape, -1)
            states.append(
                whole[to_device(rows, whole.device), to_device(beyond, whole.device)].to(device)
            )

        cache = PathCache(AncestorPath(), index[:width])
        with hooked([*(reading(block, read) for block in blocks), returning(blocks[-1], read)]):
            self._run(to_device(ids, device), index[None], index <= index[:, None], cache, 0)
        start, end, tokens, share = (
            to_device(values, device)
            for values in (start, lengths - 1 - start, ids[rows, beyond], share)
        )
        path = AncestorPath(width, cache.kept if width else {})
        return KeptTexts(tokens, start, end, share, states, path)

    @torch.inference_mode()
    def run(self, texts: KeptTexts, layer: int, states: Tensor) -> Tensor:
        """Return what leaves the last block at the last token, before the final norm.

        Parameters
        ----------
        layer
            Where the states stand: 0 enters block 1, and i leaves block i.
        states
            Any number of states for the first place of each text; for a place of several tokens,
            of their mean. [texts, n, d]
        """
        states = to_device(states, self.model.device)
        if layer == self.model.n_blocks:
            return texts.last(texts.changed(layer, states)).to(self.model.dtype)
        at_a_time = max(1, _BESIDE // texts.tokens.shape[1])
        return torch.cat(
            [
                self._run_beside(texts, layer, some)
                for some in torch.split(states, at_a_time, dim=1)
            ],
            dim=1,
        )

    def _run_beside(self, texts: KeptTexts, layer: int, states: Tensor) -> Tensor:
        model, device = self.model, self.model.device
        n, (m, rest), width = states.shape[1], texts.tokens.shape, texts.path.length
        given = texts.changed(layer, states).to(model.dtype)
        index = torch.arange(n * rest, device=device)
        own = (index <= index[:, None]) & (index // rest == index[:, None] // rest)
        before = torch.arange(width, device=device) < texts.start[:, None]
        seen = torch.cat([before[:, None].expand(-1, n * rest, -1), own.expand(m, -1, -1)], dim=2)
        cache = PathCache(texts.path, torch.empty(0, dtype=torch.long, device=device))
        place = torch.minimum(torch.arange(rest, device=device), texts.end[:, None])
        position = (texts.start[:, None] + place).repeat(1, n)
        read: list[Tensor] = []
        with (
            left_out(model.blocks[:layer], self._in_tuples),
            hooked([
                given_states(model.blocks[layer], lambda _: given),
                returning(model.blocks[-1], read.append),
            ]),
        ):  # fmt: skip
            self._run(texts.tokens.repeat(1, n), position, seen, cache, width)
        return texts.last(read[0].reshape(given.shape).to(device))

    def _run(
        self, tokens: Tensor, position: Tensor, seen: Tensor, cache: PathCache, above: int
    ) -> None:
        model = self.model
        seen = seen if seen.ndim == 3 else seen[None]
        model.module(
            input_ids=tokens,
            position_ids=position.expand(len(tokens), -1),
            attention_mask=masks(model, seen, position, above),
            past_key_values=cache,
            use_cache=True,
        )


def reading(block: nn.Module, read: Callable[[Tensor], None]) -> Any:
    """Call a function with the states that enter a block. -> handle of the hook"""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read(block_input(args, kwargs))

    return block.register_forward_pre_hook(hook, with_kwargs=True)


def returning(block: nn.Module, read: Callable[[Tensor], None]) -> Any:
    """Call a function with the states that leave a block. -> handle of the hook"""
    return block.register_forward_hook(lambda *args: read(hidden_state(args[-1])))


@torch.inference_mode()
def run_whole(model: LoadedModel, text: Text, layer: int, states: Tensor) -> Tensor:
    """Return what ``Rerun.run`` returns for one text, by running all of it with each state.

    Parameters
    ----------
    states
        States for the text's first place at the layer; for several tokens, of their mean. [n, d]
    """
    n, place, read = len(states), list(text.places[0]), []

    def replace(whole: Tensor) -> Tensor:
        changed = whole.clone().view(n, len(text.tokens), -1)
        own = changed[:, place].float()
        change = states.to(own) - own.mean(dim=1)
        changed[:, place] = (own + change[:, None]).to(whole)
        return changed

    def keep(state: Tensor) -> None:
        whole = replace(state) if layer == model.n_blocks else state
        read.append(whole.view(n, len(text.tokens), -1)[:, -1])

    handles = [returning(model.blocks[-1], keep)]
    if layer < model.n_blocks:
        handles.append(given_states(model.blocks[layer], replace))
    with hooked(handles):
        ids = torch.tensor([list(text.tokens)] * n, device=model.device)
        model.module(input_ids=ids, use_cache=False)
    return read[0].to(model.device)


def require_parity(
    model: LoadedModel, texts: Sequence[Text], states: Tensor, beside: int = 1
) -> float:
    """Compare texts run again from the middle layer with whole ones; return how far they differ.

    Parameters
    ----------
    texts
        A few, of different lengths.
    states
        Other states at the first place of each at layer ``n_blocks // 2``. [texts, d]
    beside
        How many versions of each are run at once, which a model that relies on the order of its
        keys gets wrong.

    Raises
    ------
    UserError
        They differ by more than rounding explains.
    """
    layer, runner = model.n_blocks // 2, Rerun(model)
    again = runner.run(runner.keep(texts), layer, states[:, None].repeat(1, beside, 1)).float()
    whole = torch.stack([run_whole(model, text, layer, state[None])
                         for text, state in zip(texts, states, strict=True)]).float()  # fmt: skip
    difference = float(((again - whole).norm(dim=-1) / whole.norm(dim=-1)).max())
    if not difference <= TOLERANCE[model.dtype]:
        raise UserError(
            f"model {model.name!r}: its last token run by itself on the keys and values of the "
            f"text differs by {difference:.1e} from the whole text, so its states cannot be changed"
        )
    return difference


@torch.inference_mode()
def _return_tuples(model: LoadedModel) -> bool:
    """Whether the blocks of a model return a tuple that begins with the states."""
    read: list[Any] = []
    with hooked([model.blocks[0].register_forward_hook(lambda *args: read.append(args[-1]))]):
        model.module(input_ids=example_input(model.module, model.device), use_cache=False)
    return not isinstance(read[0], Tensor)
