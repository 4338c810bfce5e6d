"""Texts as token ids, exactly as the model is used to reading them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from llmprobe.extraction.tree import shared_with_previous
from llmprobe.ground.errors import UserError, foreign_errors, out_of_memory
from llmprobe.models.loading import LoadedModel, text_config

log = logging.getLogger(__name__)

_PLACEHOLDER = "THE TEXT OF THE USER"
"""Stands where a chat template puts the text."""


class Text(NamedTuple):
    """The tokens that are run for one or more examples."""

    tokens: tuple[int, ...]
    read: int
    """Index of the token whose hidden state is read; for a mean, that of the last token."""


@dataclass(frozen=True)
class Reading:
    """How a hidden state is read of a text: that of one token, or the mean over tokens."""

    mean: bool
    special: frozenset[int]
    """Token ids that stand for no text, which a mean leaves out."""

    def counted(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return 1 for each token that a mean is over, else 0. -> [tokens] float32"""
        return (~np.isin(tokens, list(self.special))).astype(np.float32)


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids of each text, never padded."""

    ids: list[list[int]]
    special: frozenset[int]
    """Ids that stand for no text (BOS, EOS, separators); a mean leaves them out."""
    read: list[int]
    """For each text, the index of the token whose hidden state is read; for a mean, of its last."""
    mean: bool = False
    """Whether the mean over the tokens of each text is read, and not the state of one."""

    @property
    def reading(self) -> Reading:
        """How a hidden state is read of each text."""
        return Reading(self.mean, self.special)

    @property
    def n_tokens(self) -> int:
        """Number of tokens of all texts together."""
        return sum(map(len, self.ids))

    @cached_property
    def n_unique_tokens(self) -> int:
        """Number of distinct prefixes of all texts: the nodes of their prefix tree."""
        return self.n_tokens - int(shared_with_previous(sorted(self.ids)).sum())

    def golden(self, most: int = 8, *, cut: bool) -> list[dict[str, Any]]:
        """Return some short texts from everywhere, as JSON: what another engine can be asked.

        Each has the number of its text (``row``), its ``token_ids``, and the ``positions`` of the
        tokens whose mean state is read; ``cut`` as in ``texts``.
        """
        chosen = []
        for block in np.array_split(np.arange(len(self.ids)), min(most, len(self.ids))):
            row = min(block.tolist(), key=lambda row: len(self.ids[row]))
            tokens, positions = self.ids[row], [self.read[row]]
            if self.mean:
                positions = np.flatnonzero(self.reading.counted(tokens)).tolist()
            token_ids = tokens[: positions[-1] + 1] if cut else tokens
            chosen.append({"row": row, "token_ids": token_ids, "positions": positions})
        return chosen

    def texts(self, cut: bool) -> list[Text]:
        """Return what to run for each text; ``cut``: nothing after the token that is read.

        A causal state depends on nothing to its right.
        """
        return [
            Text(tuple(tokens[: read + 1] if cut else tokens), read)
            for tokens, read in zip(self.ids, self.read, strict=True)
        ]


def tokenise(
    tokenizer: Any,
    texts: Sequence[str],
    *,
    window: int | None,
    position: str = "last",
    span_ends: Sequence[int] | None = None,
    chat_template: bool = False,
    too_long: str = "error",
    where: str = "texts",
) -> TokenisedTexts:
    """Tokenise ``texts`` with the special tokens that the tokenizer itself adds, once.

    Parameters
    ----------
    window
        The model's longest input in tokens, None for no limit.
    position
        ``last`` or ``first`` of the tokens that the tokenizer did not add, ``mean``, or ``span:…``
        for the token in which the span ends.
    span_ends
        For a span, the index of its last character in each text. [texts]
    too_long
        ``"error"``: a longer text is a ``UserError``. ``"cut_left"``: its first tokens are
        dropped (after the BOS), never its last, since the probed token is there; counted in a
        warning.

    Raises
    ------
    UserError
        A text is too long or has no tokens; the tokenizer has no chat template; a span cannot be
        followed into the tokens.
    """
    rendered = as_chats(tokenizer, texts) if chat_template else list(texts)
    begins = as_chats(tokenizer, [_PLACEHOLDER])[0].find(_PLACEHOLDER) if chat_template else 0
    if span_ends is not None and not tokenizer.is_fast:
        raise UserError(
            f"{where}: extract.position {position!r} needs a fast tokenizer, and this model's does "
            "not tell which characters a token stands for"
        )
    with foreign_errors(f"{where}: the model's tokenizer fails on its texts", out_of_memory):
        # A rendered chat has its special tokens in the text already.
        encoded = tokenizer(
            rendered, add_special_tokens=not chat_template, truncation=False, padding=False,
            return_offsets_mapping=span_ends is not None, verbose=False,
        )  # fmt: skip
    bos = tokenizer.bos_token_id
    # What a chat template writes is there to be read, but for the BOS.
    before, after = (0, 0) if chat_template else added_tokens(tokenizer)
    ids: list[list[int]] = []
    read: list[int] = []
    for row, tokens in enumerate(map(list, encoded["input_ids"])):
        doubled = bos is not None and tokens[:2] == [bos, bos]
        first = max(before, int(chat_template and tokens[:1] == [bos]))
        last = len(tokens) - 1 - doubled - after
        if last < first:
            raise UserError(f"{where}: example {row} gives no tokens: {texts[row]!r}")
        index = first if position == "first" else last
        if span_ends is not None:
            shift = _shift(texts[row], rendered[row], begins)
            offsets = encoded["offset_mapping"][row]
            end = None if shift is None else _token_at(offsets, span_ends[row] + shift)
            if end is None:
                raise UserError(
                    f"{where}: example {row}: no token stands for the end of {position!r} in "
                    f"{rendered[row]!r:.200}"
                )
            index = end - doubled
        ids.append(tokens[1:] if doubled else tokens)
        read.append(index)
    # An unknown word is text, unless its token has another meaning too.
    names = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "pad_token_id")
    meanings = {getattr(tokenizer, name, None) for name in names}
    special = frozenset(tokenizer.all_special_ids) - ({tokenizer.unk_token_id} - meanings)
    tokenised = TokenisedTexts(ids, special, read, position == "mean")
    return _fit_window(tokenised, window, position, too_long, where)


def added_tokens(tokenizer: Any) -> tuple[int, int]:
    """Return how many tokens a tokenizer adds before each text, and how many after it."""
    own = tokenizer("a", add_special_tokens=False)["input_ids"]
    every = tokenizer("a")["input_ids"]
    n = len(every) - len(own)
    places = (start for start in range(n + 1) if every[start : start + len(own)] == own)
    before = next(places, 0)
    return before, n - before


def as_chats(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return each text as a user's turn in the tokenizer's chat template, up to the answer.

    Raises
    ------
    UserError
        The tokenizer has no chat template, or one that refuses a text or is no template.
    """
    if not tokenizer.chat_template:
        raise UserError("extract.chat_template: this model's tokenizer has no chat template")
    with foreign_errors("extract.chat_template: this model's chat template cannot be used"):
        return [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in texts
        ]


def _shift(text: str, rendered: str, begins: int) -> int | None:
    """Return how far a text has moved in a chat that has it at ``begins``, perhaps stripped.

    None when the text is not there.
    """
    spaces = len(text) - len(text.lstrip())
    shift = begins if rendered.startswith(text, begins) else begins - spaces
    is_there = begins >= 0 and rendered.startswith(text.strip(), shift + spaces)
    return shift if is_there else None


def _token_at(offsets: Sequence[tuple[int, int]], character: int) -> int | None:
    """Return the index of the last token that stands for a character, None without one."""
    tokens = [i for i, (start, stop) in enumerate(offsets) if start <= character < stop]
    return tokens[-1] if tokens else None


def _fit_window(
    texts: TokenisedTexts, window: int | None, position: str, too_long: str, where: str
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
    cut, read = list(ids), list(texts.read)
    for row in long:
        tokens = ids[row]
        head = tokens[:1] if tokens[0] in texts.special else []
        first_kept = len(tokens) - window + len(head)
        cut[row] = head + tokens[first_kept:]
        if read[row] >= first_kept:
            read[row] -= len(tokens) - window
        elif position == "first":
            read[row] = len(head)
        elif not (head and read[row] == 0):
            raise UserError(
                f"{where}: example {row}: cutting its {len(tokens)} tokens to the last {window} "
                "would drop the token that is probed"
            )
    return replace(texts, ids=cut, read=read)


def require_distinct_states(texts: TokenisedTexts, causal: bool, tokenizer: Any, where: str) -> int:
    """Return how many different states are read, by the tokens that each depends on.

    Raises
    ------
    UserError
        It is one for texts that differ, so that no layer can tell them apart.
    """
    states = set(texts.texts(cut=causal))
    if len(states) == 1 and len(texts.ids) > 1:
        (text,) = states
        token = tokenizer.decode([text.tokens[text.read]], skip_special_tokens=False)
        raise UserError(
            f"{where}: every layer has one state for all {len(texts.ids):,} texts, since each is "
            f"read at {token!r} with the same tokens before it; set another extract.position, or "
            "see whether the template or chat template has the text"
        )
    return len(states)


def require_usable_tokens(texts: TokenisedTexts, where: str, model: LoadedModel) -> None:
    """Raise ``UserError`` for a mean over no tokens, and for tokens that the model lacks."""
    module: Any = model.module
    known = module.get_input_embeddings().num_embeddings
    for row, tokens in enumerate(texts.ids):
        if texts.mean and texts.special.issuperset(tokens):
            raise UserError(f"{where}: example {row} has only special tokens, so no mean")
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
