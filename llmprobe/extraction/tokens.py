"""Texts as token ids, exactly as the model is used to reading them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llmprobe.errors import UserError
from llmprobe.models.loading import text_config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids of each text, never padded."""

    ids: list[list[int]]
    special: frozenset[int]
    """Ids that stand for no text (BOS, EOS, separators); a mean leaves them out."""

    @property
    def n_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.ids))

    @property
    def n_unique_tokens(self) -> int:
        """Distinct prefixes of all texts: the nodes of their prefix tree."""
        ordered = sorted(self.ids)
        shared = sum(_common(a, b) for a, b in pairwise(ordered))
        return self.n_tokens - shared


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def tokenise(
    tokenizer: Any,
    texts: Sequence[str],
    *,
    window: int | None,
    chat_template: bool = False,
    too_long: str = "error",
    where: str = "texts",
) -> TokenisedTexts:
    """Tokenise ``texts`` with the special tokens that the tokenizer itself adds, once.

    Parameters
    ----------
    window
        The model's longest input in tokens, None for no limit.
    too_long
        ``"error"``: a longer text is a ``UserError``. ``"cut_left"``: its first tokens are
        dropped (after the BOS), never its last, since the probed token is there; counted in a
        warning.

    Raises
    ------
    UserError
        A text is too long or has no tokens; the tokenizer has no chat template.
    """
    if chat_template:
        if not tokenizer.chat_template:
            raise UserError("extract.chat_template: this model's tokenizer has no chat template")
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in texts
        ]
    # A rendered chat has its special tokens in the text already.
    encoded = tokenizer(
        list(texts), add_special_tokens=not chat_template, truncation=False, padding=False,
        verbose=False,
    )["input_ids"]  # fmt: skip
    bos = tokenizer.bos_token_id
    ids = [t[1:] if bos is not None and t[:2] == [bos, bos] else list(t) for t in encoded]
    for row, tokens in enumerate(ids):
        if not tokens:
            raise UserError(f"{where}: example {row} gives no tokens: {texts[row]!r}")
    special = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return TokenisedTexts(_fitted(ids, window, special, too_long, where), special)


def _fitted(
    ids: list[list[int]],
    window: int | None,
    special: frozenset[int],
    too_long: str,
    where: str,
) -> list[list[int]]:
    long = [] if window is None else [row for row, t in enumerate(ids) if len(t) > window]
    if window is None or not long:
        return ids
    longest = max(len(ids[row]) for row in long)
    said = (
        f"{where}: {len(long)} of {len(ids)} texts are longer than the model's window of {window} "
        f"tokens (example {long[0]} has {len(ids[long[0]])}; the longest {longest})"
    )
    if too_long == "error":
        raise UserError(f"{said}; shorten them, or set extract.too_long: cut_left")
    log.warning("%s; their first tokens are left out", said)
    cut = list(ids)
    for row in long:
        tokens = ids[row]
        head = tokens[:1] if tokens[0] in special else []
        cut[row] = head + tokens[len(tokens) - window + len(head) :]
    return cut


def model_window(config: Any) -> int | None:
    """The longest input of a model in tokens, from its configuration; None for no limit."""
    text = text_config(config)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        window = getattr(text, name, None)
        if isinstance(window, int) and window > 0:
            return window
    return None
