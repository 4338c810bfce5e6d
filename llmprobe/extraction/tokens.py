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
"""Indices of a text's tokens: one whose state is read, or several over whose states a mean is."""


class Text(NamedTuple):
    """The tokens that are run for one or more examples."""

    tokens: tuple[int, ...]
    places: tuple[Place, ...]
    """What is read of them, a row each."""


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids of each text, never padded."""

    ids: list[list[int]]
    places: list[list[Place]]
    """What is read of each text, a place for each position; then, where every token is read, one
    for each of its own. [n][positions, or more]"""

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
        """Return some short texts from everywhere, as JSON: what another engine can be asked.

        Each has the number of its text (``row``), its ``token_ids``, and the ``positions`` of the
        tokens whose mean state is read; ``cut`` as in ``merged``.

        Parameters
        ----------
        columns
            Which of the places that are read of each text.
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
        """Return the whole of each text, with what is read of it. [n]"""
        return [Text(tuple(tokens), tuple(dict.fromkeys(places)))
                for tokens, places in zip(self.ids, self.places, strict=True)]  # fmt: skip

    def merged(self, cut: bool) -> list[Text]:
        """Return for each text what is run for it, which is one for all of the same tokens. [n]

        With ``cut`` nothing after the last token that is read: a causal state depends on nothing to
        its right.
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
    """Tokenise ``texts`` with the special tokens that the tokenizer itself adds, once.

    Parameters
    ----------
    window
        The model's longest input in tokens, None for no limit.
    positions
        As ``ExtractConfig.position`` has them.
    ranges
        For the positions that are of a part of each text, that part: its first character, and the
        one after its last. Each [texts]
    turns, chat
        Of chats, the turns of each text, and options for the tokenizer's chat template.
    every_token
        Whether each token that is not special is read too, behind the positions.
    special
        ``"skip"`` or ``"include"``, as ``ExtractConfig.special``.
    too_long
        ``"error"``: a longer text is a ``UserError``. ``"cut_left"``: its first tokens are
        dropped (after the BOS), never its last, since the probed token is there; counted in a
        warning.

    Raises
    ------
    UserError
        A text is too long or has no tokens; the tokenizer has no chat template, or one that leaves
        out a turn; a place cannot be followed into the tokens.
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
    # What a chat template writes is there to be read, but for the BOS.
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

    An unknown word is text, unless its token has another meaning too.
    """
    names = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "pad_token_id")
    meanings = {getattr(tokenizer, name, None) for name in names}
    return frozenset(tokenizer.all_special_ids) - ({tokenizer.unk_token_id} - meanings)


def _of_text(position: str, own: range, where: str) -> int:
    """Return the index of the token at ``first``, ``last`` or ``token:N`` of a text's own ones."""
    if position in ("first", "last"):
        return own[0 if position == "first" else -1]
    number = int(position.removeprefix("token:"))
    if not -len(own) <= number < len(own):
        raise UserError(f"{where} has {len(own)} tokens, so none at {position!r}; the first is "
                        "token:0, the last token:-1")  # fmt: skip
    return own[number]


def _of_several(position: str, inside: Place) -> Place:
    """Return those of some tokens that a position is of: the first, the last, or all."""
    kind = position.partition(":")[0]
    return inside if kind == "mean" else inside[:1] if kind == "first" else inside[-1:]


def _tokens_in(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> Place:
    """Return the indices of the tokens that stand for some of the characters of a part."""
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
    """Return texts of which none is longer than the window; see ``tokenise``."""
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
    """Return how many different states are read at each position, by what each depends on.

    Raises
    ------
    UserError
        It is one for texts that differ, so that no layer can tell them apart.
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
                f"{known} of {model.name}: its tokenizer is not its own"
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
            # RoBERTa and its kin count positions from the one after that of padding.
            return table.num_embeddings - table.padding_idx - 1
    return window
