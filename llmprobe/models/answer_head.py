"""A model's own head over hidden states, for the tokens that answers begin with alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.ground.errors import UserError, foreign_errors
from llmprobe.models.layers import block_input, hidden_state
from llmprobe.models.loading import LoadedModel, example_input

_ROWS = 4096
"""States that go through the head at a time."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""How far logits may be from the model's own, as a share of the largest: rounding reaches half."""


@dataclass(frozen=True)
class AnswerTokens:
    """The tokens that the answers of a question begin with."""

    labels: tuple[str, ...]
    """What is answered, in the order of the classes."""
    of_label: tuple[tuple[int, ...], ...]
    """The token ids of each label; those of no two labels are the same."""

    @property
    def ids(self) -> list[int]:
        """Return the token ids of all labels, one after the other. [T]"""
        return [token for tokens in self.of_label for token in tokens]

    def of_labels(self, logits: Tensor) -> Tensor:
        """Return the log of the summed odds of each label's tokens. [..., T] -> [..., C]"""
        parts = torch.split(logits, [*map(len, self.of_label)], dim=-1)
        return torch.stack([part.logsumexp(dim=-1) for part in parts], dim=-1)


def answer_tokens(
    tokenizer: Any, question: Sequence[int], answers: Mapping[str, Sequence[str]], where: str
) -> AnswerTokens:
    """Return the tokens with which a model would begin to say each label.

    Words are taken with a space before them, or without where the question ends with a space or a
    new line. The other way counts too, where it does not begin with another label's token.

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
    """Return the first token of a word after a text; None where they do not come apart."""
    before, both = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (tail, tail + word)
    )
    n = len(before)
    own = both[:n] == before and len(both) > n and both[n] not in (None, tokenizer.unk_token_id)
    return int(both[n]) if own and tokenizer.decode([both[n]]).strip() else None


class AnswerHead:
    """The last norm and the rows of the head that some tokens have, run by the model's own code.

    The model is run with its blocks left out: the first returns the states that are asked about,
    the others what they are given. So what comes after the blocks (norm, projection, scale, soft
    cap) is the model's own, and only the rows of the tokens are multiplied, in float32.

    Parameters
    ----------
    head
        The model with its head, as ``load_language_model`` returns it.
    model
        Its base.

    Raises
    ------
    UserError
        The logits are not those of the model itself, so its head is of a kind that is not known.
    """

    def __init__(self, head: Any, model: LoadedModel, tokens: AnswerTokens) -> None:
        self.head, self.model, self.tokens = head, model, tokens
        example = example_input(model.module, model.device)
        with foreign_errors(f"model {model.name!r}: its head cannot be asked"):
            own, states, returned = self._run(example)
            self._forms = [_form(output) for output in returned]
            logits = self.logits(states)
        largest = max(float(own.abs().max()), 1.0)
        off = float((logits - own).abs().max()) / largest
        if not off <= _TOLERANCE.get(model.dtype, 1e-4):
            raise UserError(
                f"model {model.name!r}: what comes after its blocks is not a norm and a head that "
                f"say the next token from a state alone (logits differ by {off:.1g} of the largest)"
            )

    def log_odds(self, states: Tensor) -> Tensor:
        """Return the log-odds of the second of two labels. [n, d] -> [n] float32, on the CPU"""
        of_labels = self.label_logits(states)
        return of_labels[:, 1] - of_labels[:, 0]

    def label_logits(self, states: Tensor) -> Tensor:
        """Return the logit of each label. [n, d] -> [n, C] float32, on the CPU"""
        return self.tokens.of_labels(self.logits(states))

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """Return the logits of the tokens after states that leave a block. [n, d] -> [n, T]"""
        with self._without_blocks() as given, self._with_rows():
            parts = []
            for part in torch.split(states, _ROWS):
                given.append(part[:, None].to(self.model.device, self.model.dtype))
                ids = torch.ones(len(part), 1, dtype=torch.long, device=self.model.device)
                parts.append(self.head(input_ids=ids, use_cache=False).logits[:, 0].float().cpu())
                given.clear()
        return torch.cat(parts)

    @torch.inference_mode()
    def own(self, ids: Sequence[int]) -> tuple[Tensor, Tensor, int]:
        """Run a text whole. -> logits of the tokens after it [T], state [d], the next token"""
        tokens = torch.tensor([list(ids)], device=self.model.device)
        logits, states, _ = self._run(tokens, every=True)
        return logits[-1, self.tokens.ids], states[-1], int(logits[-1].argmax())

    @torch.inference_mode()
    def _run(self, ids: Tensor, every: bool = False) -> tuple[Tensor, Tensor, list[Any]]:
        """Run a text [1, t]. -> logits [t, T] (or of all tokens), states that leave the last block
        [t, d], and what each block returned
        """
        returned: list[Any] = []
        handles = [
            block.register_forward_hook(lambda _, __, output: returned.append(output))
            for block in self.model.blocks
        ]
        try:
            logits = self.head(input_ids=ids, use_cache=False).logits[0].float().cpu()
        finally:
            for handle in handles:
                handle.remove()
        states = hidden_state(returned[-1])
        states = states.reshape(ids.shape[1], -1).cpu()
        return logits if every else logits[:, self.tokens.ids], states, returned

    @contextmanager
    def _without_blocks(self) -> Iterator[list[Tensor]]:
        """Let blocks return what they are given, the first what is in the list."""
        given: list[Tensor] = []
        before = [vars(block).get("forward") for block in self.model.blocks]

        def passing(i: int) -> Callable[..., Any]:
            form = self._forms[i]
            return lambda *args, **kwargs: form(given[0] if i == 0 else block_input(args, kwargs))

        try:
            for i, block in enumerate(self.model.blocks):
                block.forward = passing(i)
            yield given
        finally:
            for block, forward in zip(self.model.blocks, before, strict=True):
                del block.forward
                if forward is not None:
                    block.forward = forward

    @contextmanager
    def _with_rows(self) -> Iterator[None]:
        """Let the head have the rows of the tokens alone."""
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


def _form(output: Any) -> Callable[[Tensor], Any]:
    """Return how a block returns a state: alone, or before others that nobody asks for here."""
    if isinstance(output, Tensor):
        return lambda state: state
    return lambda state: (state, *[None] * (len(output) - 1))
