"""Texts as token ids, exactly as the model is used to reading them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from llmprobe.datasets.spans import Turn
from llmprobe.extraction.chats import rendered
from llmprobe.extraction.tree import shared_with_previous
from llmprobe.ground.errors import UserError, foreign_errors, out_of_memory
from llmprobe.models.loading import LoadedModel, text_config

log = logging.getLogger(__name__)

Place = tuple[int, ...]
"""Indices of a text's tokens: one whose state is read, or several whose mean state is read."""


class Text(NamedTuple):
    """The tokens that are run for one or more examples."""

    tokens: tuple[int, ...]
    places: tuple[Place, ...]
    """The places that are read of them, a row each."""


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids of each text, never padded."""

    ids: list[list[int]]
    places: list[list[Place]]
    """The places that are read of each text: one for each position; then, where every token is
    read, one for each token. [n][positions, or more]"""

    @property
    def n_tokens(self) -> int:
        """Number of tokens of all texts together."""
        return sum(map(len, self.ids))

    @cached_property
    def n_unique_tokens(self) -> int:
        """Number of distinct prefixes of all texts: the nodes of their prefix tree."""
        return self.n_tokens - int(shared_with_previous(sorted(self.ids)).sum())

    @cached_property
    def n_unread_tokens(self) -> int:
        """Number of distinct prefixes whose last token is not read; 0 where means are read."""
        if any(len(place) > 1 for places in self.places for place in places):
            return 0
        return max(self.n_unique_tokens - sum(map(len, self.places)), 0)

    def golden(self, columns: slice, most: int = 8, *, cut: bool) -> list[dict[str, Any]]:
        """Return some short texts from all parts of the dataset, as JSON, to try another engine on.

        Each has the number of its text (``row``), its ``token_ids``, and the ``positions`` of the
        tokens whose mean state is read; ``cut`` as in ``merged``.

        Parameters
        ----------
        columns
            Which of each text's places are meant.
        """
        chosen = []
        for block in np.array_split(np.arange(len(self.ids)), min(most, len(self.ids))):
            row = min(block.tolist(), key=lambda row: len(self.ids[row]))
            tokens, places = self.ids[row], self.places[row][columns]
            place = [i for read in places for i in read]
            token_ids = tokens[: place[-1] + 1] if cut else tokens
            chosen.append({"row": row, "token_ids": token_ids, "positions": place})
        return chosen

    @property
    def whole(self) -> list[Text]:
        """Return each text uncut, with its places. [n]"""
        return [Text(tuple(tokens), tuple(dict.fromkeys(places)))
                for tokens, places in zip(self.ids, self.places, strict=True)]  # fmt: skip

    def merged(self, cut: bool) -> list[Text]:
        """Return what is run for each text; texts of equal tokens share one, with all places. [n]

        With ``cut``, a text ends at its last token that is read, since a causal state depends on
        nothing to its right.
        """
        ids = [tuple(tokens) for tokens in self.ids]
        if cut:
            end: dict[Place, int] = {}
            for tokens, places in zip(ids, self.places, strict=True):
                end[tokens] = max(end.get(tokens, 0), *(place[-1] + 1 for place in places))
            ids = [tokens[: end[tokens]] for tokens in ids]
        read: dict[Place, set[Place]] = {}
        for tokens, places in zip(ids, self.places, strict=True):
            read.setdefault(tokens, set()).update(places)
        texts = {tokens: Text(tokens, tuple(sorted(places))) for tokens, places in read.items()}
        return [texts[tokens] for tokens in ids]


def tokenise(
    tokenizer: Any,
    texts: Sequence[str],
    *,
    window: int | None,
    positions: Sequence[str] = ("last",),
    ranges: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    turns: Sequence[Sequence[Turn]] | None = None,
    chat: Mapping[str, Any] | None = None,
    every_token: bool = False,
    special: str = "skip",
    too_long: str = "error",
    where: str = "texts",
) -> TokenisedTexts:
    """Tokenise ``texts`` with the special tokens that the tokenizer adds, but one BOS at most.

    Parameters
    ----------
    window
        The model's longest input in tokens, None for no limit.
    positions
        As in ``ExtractConfig.position``.
    ranges
        For each position that names a part of the text, that part of each text: its first
        character, and the one after its last. Each [texts]
    turns, chat
        For chats, the turns of each text, and options for the tokenizer's chat template.
    every_token
        Whether every token is read too, after the positions; special ones only if included.
    special
        ``"skip"`` or ``"include"``, as in ``ExtractConfig.special``.
    too_long
        What to do with a text longer than the window. ``"error"`` raises ``UserError``;
        ``"cut_left"`` drops its first tokens after a BOS, and a warning counts such texts.

    Raises
    ------
    UserError
        A text is too long or has no tokens; the tokenizer has no chat template, or one that leaves
        out a turn; a position has no token in a text.
    """
    ranges = ranges or {}
    chats = None if turns is None else rendered(tokenizer, texts, turns, chat or {}, where)
    strings = list(texts) if chats is None else [one.text for one in chats]
    if ranges and not tokenizer.is_fast:
        raise UserError(
            f"{where}: extract.position {min(ranges)!r} needs a fast tokenizer, and this model's "
            "does not tell which characters a token stands for"
        )
    with foreign_errors(f"{where}: the model's tokenizer fails on its texts", out_of_memory):
        # A rendered chat has its special tokens in the text already.
        encoded = tokenizer(
            strings, add_special_tokens=chats is None, truncation=False, padding=False,
            return_offsets_mapping=bool(ranges), verbose=False,
        )  # fmt: skip
    bos, no_text = tokenizer.bos_token_id, special_tokens(tokenizer)
    # Tokens that a chat template writes count as the text's own, except the BOS.
    before, after = (0, 0) if chats is not None else added_tokens(tokenizer)
    ids: list[list[int]] = []
    places: list[list[Place]] = []
    for row, tokens in enumerate(map(list, encoded["input_ids"])):
        example = f"{where}: example {row}"
        doubled = bos is not None and tokens[:2] == [bos, bos]
        tokens = tokens[int(doubled) :]
        own = range(max(before, int(chats is not None and tokens[:1] == [bos])),
                    len(tokens) - after)  # fmt: skip
        if not own:
            raise UserError(f"{example} gives no tokens: {texts[row]!r}")
        if special == "include":
            own, counted = range(len(tokens)), tuple(range(len(tokens)))
        else:
            counted = tuple(i for i, token in enumerate(tokens) if token not in no_text)
        read = []
        for position in positions:
            if position in ranges:
                part: tuple[int, int] | None = ranges[position][row]
                if chats is not None and turns is not None and part is not None:
                    part = chats[row].moved(turns[row], *part)
                offsets = encoded["offset_mapping"][row][int(doubled) :]
                inside = () if part is None else _tokens_in(offsets, *part)
                if not inside or (part and max(offsets[i][1] for i in inside) < part[1]):
                    raise UserError(f"{example}: no token stands for {position!r} in "
                                    f"{strings[row]!r:.200}")  # fmt: skip
                read.append(_of_several(position, inside))
            elif position == "mean" and not counted:
                raise UserError(f"{example} has only special tokens, so no mean")
            elif position == "mean":
                read.append(counted)
            else:
                read.append((_of_text(position, own, example),))
        if every_token and not counted:
            raise UserError(f"{example} has only special tokens")
        read += [(i,) for i in counted] if every_token else []
        ids.append(tokens)
        places.append(read)
    tokenised = TokenisedTexts(ids, places)
    return _fit_window(tokenised, window, positions, no_text, too_long, where)


def special_tokens(tokenizer: Any) -> frozenset[int]:
    """Return the ids that stand for no text: BOS, EOS, separators, padding.

    The token for unknown words is text, unless it has another meaning too.
    """
    names = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "pad_token_id")
    meanings = {getattr(tokenizer, name, None) for name in names}
    return frozenset(tokenizer.all_special_ids) - ({tokenizer.unk_token_id} - meanings)


def _of_text(position: str, own: range, where: str) -> int:
    """Return the index of a text's own token at ``first``, ``last`` or ``token:N``."""
    if position in ("first", "last"):
        return own[0 if position == "first" else -1]
    number = int(position.removeprefix("token:"))
    if not -len(own) <= number < len(own):
        raise UserError(f"{where} has {len(own)} tokens, so none at {position!r}; the first is "
                        "token:0, the last token:-1")  # fmt: skip
    return own[number]


def _of_several(position: str, inside: Place) -> Place:
    """Return the tokens of a part that a position reads: the first, the last, or all for a mean."""
    kind = position.partition(":")[0]
    return inside if kind == "mean" else inside[:1] if kind == "first" else inside[-1:]


def _tokens_in(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> Place:
    """Return the indices of the tokens that stand for any character of a part."""
    return tuple(i for i, (a, b) in enumerate(offsets) if a < b and a < stop and b > start)


def added_tokens(tokenizer: Any) -> tuple[int, int]:
    """Return how many tokens a tokenizer adds before each text, and how many after it."""
    own = tokenizer("a", add_special_tokens=False)["input_ids"]
    every = tokenizer("a")["input_ids"]
    n = len(every) - len(own)
    places = (start for start in range(n + 1) if every[start : start + len(own)] == own)
    before = next(places, 0)
    return before, n - before


def _fit_window(
    texts: TokenisedTexts,
    window: int | None,
    positions: Sequence[str],
    no_text: frozenset[int],
    too_long: str,
    where: str,
) -> TokenisedTexts:
    """Cut or refuse texts longer than the window, as ``too_long`` of ``tokenise`` says."""
    ids = texts.ids
    long = [] if window is None else [row for row, t in enumerate(ids) if len(t) > window]
    if window is None or not long:
        return texts
    longest = max(len(ids[row]) for row in long)
    problem = (
        f"{where}: {len(long)} of {len(ids)} texts are longer than the model's window of {window} "
        f"tokens (example {long[0]} has {len(ids[long[0]])}; the longest {longest})"
    )
    if too_long == "error":
        raise UserError(f"{problem}; shorten them, or set extract.too_long: cut_left")
    log.warning("%s; their first tokens are left out", problem)
    ids, places = list(ids), list(texts.places)
    for row in long:
        tokens = ids[row]
        head = tokens[:1] if tokens[0] in no_text else []
        n_cut = len(tokens) - window
        ids[row] = head + tokens[n_cut + len(head) :]
        read = []
        every_token = ["every token"] * (len(places[row]) - len(positions))
        for position, place in zip([*positions, *every_token], places[row], strict=True):
            kept = tuple(0 if i < len(head) else i - n_cut for i in place
                         if i < len(head) or i >= n_cut + len(head))  # fmt: skip
            if position == "every token" and not kept:
                continue
            if position == "first" and len(kept) < len(place):
                kept = (len(head),)
            elif not kept or (position != "mean" and len(kept) < len(place)):
                raise UserError(
                    f"{where}: example {row}: cutting its {len(tokens)} tokens to the last "
                    f"{window} would drop the token that is probed"
                )
            read.append(kept)
        places[row] = read
    return replace(texts, ids=ids, places=places)


def distinct_states(
    texts: TokenisedTexts, positions: Sequence[str], causal: bool, tokenizer: Any, where: str
) -> list[int]:
    """Count the distinct states at each position, by the tokens that each state depends on.

    Raises
    ------
    UserError
        All of several texts share one state, so that no layer can tell them apart.
    """
    counts = []
    for column, position in enumerate(positions):
        states = set()
        for tokens, places in zip(texts.ids, texts.places, strict=True):
            place = places[-1] if position == "tokens" else places[column]
            read = tokens[: place[-1] + 1] if causal else tokens
            states.add((tuple(read), () if position == "tokens" else place))
        if len(states) == 1 and len(texts.ids) > 1:
            token = tokenizer.decode([tokens[place[-1]]], skip_special_tokens=False)
            raise UserError(
                f"{where}: every layer has one state for all {len(texts.ids):,} texts, since each "
                f"is read at {token!r} with the same tokens before it; set another "
                f"extract.position than {position}, or see whether the template or chat template "
                "has the text"
            )
        counts.append(len(states))
    return counts


def require_usable_tokens(texts: TokenisedTexts, where: str, model: LoadedModel) -> None:
    """Raise ``UserError`` for a token that the model lacks."""
    module: Any = model.module
    known = module.get_input_embeddings().num_embeddings
    for row, tokens in enumerate(texts.ids):
        if max(tokens) >= known:
            raise UserError(
                f"{where}: example {row} has token {max(tokens)}, beyond the "
                f"{known} of {model.name}: its tokenizer was made for another model"
            )


def model_window(module: Any) -> int | None:
    """Return the longest input of a model in tokens, by its shape; None for no limit."""
    config = text_config(module.config)
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    lengths = (getattr(config, name, None) for name in names)
    window = next((n for n in lengths if isinstance(n, int) and n > 0), None)
    words = module.get_input_embeddings()
    for table in (m for m in module.modules() if isinstance(m, nn.Embedding) and m is not words):
        if table.num_embeddings == window and table.padding_idx is not None:
            # RoBERTa and models like it number positions from the one after padding's.
            return table.num_embeddings - table.padding_idx - 1
    return window
