"""A model's own head over hidden states, only for the tokens that answers begin with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.ground.errors import UserError, foreign_errors
from llmprobe.models.layers import given_states, hidden_state, hooked, left_out
from llmprobe.models.loading import LoadedModel, example_input

_ROWS = 4096
"""States that go through the head at a time."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""The most that logits may differ from the model's own, as a share of the largest logit; rounding
reaches half of it."""


@dataclass(frozen=True)
class AnswerTokens:
    """The tokens that the answers of a question begin with."""

    labels: tuple[str, ...]
    """The labels, in the order of the classes."""
    of_label: tuple[tuple[int, ...], ...]
    """The token ids of each label; no two labels share one."""

    @property
    def ids(self) -> list[int]:
        """Return the token ids of all labels, one after the other. [T]"""
        return [token for tokens in self.of_label for token in tokens]

    def of_labels(self, logits: Tensor) -> Tensor:
        """Return the log-sum-exp of the logits of each label's tokens. [..., T] -> [..., C]"""
        parts = torch.split(logits, [*map(len, self.of_label)], dim=-1)
        return torch.stack([part.logsumexp(dim=-1) for part in parts], dim=-1)


def answer_tokens(
    tokenizer: Any, question: Sequence[int], answers: Mapping[str, Sequence[str]], where: str
) -> AnswerTokens:
    """Return the tokens with which a model would begin to say each label.

    A word is taken with a space before it, or without one if the question ends with a space or a
    new line. The other form counts too, unless it begins with another label's token.

    Parameters
    ----------
    question
        The token ids of a question, which end where the answer begins.
    answers
        The words that say each label.
    where
        What the dataset is called in errors.

    Raises
    ------
    UserError
        The words of two labels begin with the same token, or a word has no token of its own there.
    """
    tail = tokenizer.decode(list(question)[-12:], clean_up_tokenization_spaces=False)
    space = "" if tail[-1:].isspace() else " "
    of_label: dict[str, list[int]] = {}
    taken: dict[int, str] = {}
    for label, words in answers.items():
        of_label[label] = []
        for word in words:
            token = _first_token(tokenizer, tail, space + word.strip())
            if token is None:
                raise UserError(f"{where}: answers: {word!r} has no first token after the question")
            if taken.setdefault(token, label) != label:
                raise UserError(
                    f"{where}: answers: words of {taken[token]!r} and {label!r} begin with the "
                    f"same token, {tokenizer.decode([token])!r}, after the question; take words "
                    "that begin differently"
                )
            of_label[label].append(token)
    other = "" if space else " "
    more: dict[int, set[str]] = {token: {label} for token, label in taken.items()}
    for label, words in answers.items():
        for word in words:
            token = _first_token(tokenizer, tail, other + word.strip())
            if token is not None:
                more.setdefault(token, set()).add(label)
    for token, labels in more.items():
        if len(labels) == 1:
            of_label[min(labels)].append(token)
    return AnswerTokens(
        tuple(of_label), tuple(tuple(dict.fromkeys(tokens)) for tokens in of_label.values())
    )


def _first_token(tokenizer: Any, tail: str, word: str) -> int | None:
    """Return the first token of a word after a text; None if their tokens do not separate."""
    before, both = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (tail, tail + word)
    )
    n = len(before)
    own = both[:n] == before and len(both) > n and both[n] not in (None, tokenizer.unk_token_id)
    return int(both[n]) if own and tokenizer.decode([both[n]]).strip() else None


class AnswerHead:
    """The final norm and some tokens' rows of the head, run by the model's own code.

    The model is run with its blocks left out, so that given states go straight to what comes after
    the blocks. Norm, projection, scale and soft cap are the model's own; only the rows of the
    tokens are multiplied, in float32.

    Parameters
    ----------
    head
        The model with its head, as ``load_language_model`` returns it.
    model
        Its base.

    Raises
    ------
    UserError
        The logits are not those of the model itself, so its head is of an unknown kind.
    """

    def __init__(self, head: Any, model: LoadedModel, tokens: AnswerTokens) -> None:
        self.head, self.model, self.tokens = head, model, tokens
        example = example_input(model.module, model.device)
        with foreign_errors(f"model {model.name!r}: its head cannot be asked"):
            logits, states, returned = self._run(example)
            own = logits[:, self.tokens.ids]
            self._in_tuples = not isinstance(returned, Tensor)
            recomputed = self.logits(states)
        largest = max(float(own.abs().max()), 1.0)
        off = float((recomputed - own).abs().max()) / largest
        if not off <= _TOLERANCE.get(model.dtype, 1e-4):
            raise UserError(
                f"model {model.name!r}: what comes after its blocks is not a norm and a head that "
                f"say the next token from a state alone (logits differ by {off:.1g} of the largest)"
            )

    def label_logits(self, states: Tensor) -> Tensor:
        """Return the logit of each label. [n, d] -> [n, C] float32, on the CPU"""
        return self.tokens.of_labels(self.logits(states))

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """Return the logits of the tokens after states that leave a block. [n, d] -> [n, T]"""
        with left_out(self.model.blocks, self._in_tuples), self._with_rows():
            return torch.cat([self._logits(part) for part in torch.split(states, _ROWS)])

    @torch.inference_mode()
    def next_tokens(self, states: Tensor, most: int = 3) -> list[str]:
        """Return the likeliest tokens after states [n, d], each with its probability: ``no .61``.

        -> [n], the likeliest first
        """
        with left_out(self.model.blocks, self._in_tuples):
            shares, tokens = self._logits(states).softmax(dim=-1).topk(most)
        return [
            ", ".join(f"{self._word(token)} {f'{share:.2f}'.removeprefix('0')}"
                      for share, token in zip(*of_state, strict=True))
            for of_state in zip(shares.tolist(), tokens.tolist(), strict=True)
        ]  # fmt: skip

    def _word(self, token: int) -> str:
        """Return what a token is, without a space before it."""
        word = str(self.model.tokenizer.decode([token]))
        return word.strip() or repr(word)

    def _logits(self, states: Tensor) -> Tensor:
        device = self.model.device
        given = states.to(device, self.model.dtype)
        ids = torch.ones(len(states), 1, dtype=torch.long, device=device)
        with hooked([given_states(self.model.blocks[0], lambda _: given)]):
            logits: Tensor = self.head(input_ids=ids, use_cache=False).logits[:, 0]
        return logits.float().cpu()

    @torch.inference_mode()
    def own(self, ids: Sequence[int]) -> tuple[Tensor, Tensor, int]:
        """Run a text whole. -> logits of the tokens after it [T], state [d], the next token"""
        tokens = torch.tensor([list(ids)], device=self.model.device)
        logits, states, _ = self._run(tokens)
        return logits[-1, self.tokens.ids], states[-1], int(logits[-1].argmax())

    @torch.inference_mode()
    def _run(self, ids: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Run a text [1, t]. -> logits of all tokens after each of its own [t, vocabulary], states
        that leave the last block [t, d], and what that block returned
        """
        returned: list[Any] = []
        last = self.model.blocks[-1]

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            returned.append(output)

        with hooked([last.register_forward_hook(keep)]):
            logits = self.head(input_ids=ids, use_cache=False).logits[0].float().cpu()
        states = hidden_state(returned[0]).reshape(ids.shape[1], -1).cpu()
        return logits, states, returned[0]

    @contextmanager
    def _with_rows(self) -> Iterator[None]:
        """Reduce the head to the rows of the tokens while a ``with`` block lasts."""
        whole = self.head.get_output_embeddings()
        self.head.set_output_embeddings(_Rows(whole, self.tokens.ids))
        try:
            yield
        finally:
            self.head.set_output_embeddings(whole)


class _Rows(nn.Module):
    """Some rows of an unembedding, multiplied in float32."""

    def __init__(self, whole: Any, ids: Sequence[int]) -> None:
        super().__init__()
        rows, bias = list(ids), getattr(whole, "bias", None)
        self.weight = nn.Parameter(whole.weight[rows].float(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias[rows].float(), requires_grad=False)

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states.float(), self.weight, self.bias)
