"""Which hidden states are taken."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, field_validator

from llmprobe.config.schema.section import Section, name_in
from llmprobe.config.sites import SITES

_POSITION = re.compile(
    r"last|first|mean|tokens|(last|first|mean|span|turn):.+|token:-?\d{1,9}", re.DOTALL
)


class ExtractConfig(Section):
    """Which hidden states are taken from a model, and how texts become tokens."""

    site: Annotated[str, AfterValidator(name_in(SITES))] = "residual"
    """Where in a block states are read. ``residual``: the residual stream; layer 0 enters block 1,
    layer i leaves block i, before the final norm. ``attention``, ``mlp``: what this part of block i
    adds to the residual stream. ``post_attention_norm``: the output of that norm in block i. Only
    ``residual`` has a layer 0. Or a site of your own, see CONTRIBUTING.md."""
    position: str | tuple[str, ...] = "last"
    """The token whose state is read; or a list of positions, read in one pass, with a curve each.
    ``last``, ``first``, ``mean``: of the tokens of the text (of the word, if words are labelled).
    ``last:FIELD``, ``first:FIELD``, ``mean:FIELD``: of the tokens that stand for a field of the
    template, or for a field's value where the text contains it; ``span:FIELD`` is ``last:FIELD``.
    ``turn:ROLE``, ``first:ROLE``, ``mean:ROLE``: of the last turn of a role in a chat (``turn`` is
    its last token). ``tokens``: every token of the text, for probes over tokens. ``token:N``: the
    token at an index; a negative one counts from the end."""
    occurrence: Literal["first", "last"] | None = None
    """Which occurrence of a field's value is meant if a text contains it several times; by default
    that is an error."""
    special: Literal["skip", "include"] = "skip"
    """Whether ``first``, ``last``, ``mean`` and ``token:N`` skip or include the tokens that the
    tokenizer adds to a text, such as BOS and EOS. With ``skip``, ``mean`` also leaves out special
    tokens inside the text."""
    layers: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    """The layers to read, by default all, or four with ``position: tokens``; the model stops after
    the last of them."""
    batch_tokens: PositiveInt | Literal["auto"] = "auto"
    """The most tokens (with padding) in one forward pass; ``auto`` takes the cheapest number."""
    chat_template: bool = False
    """Whether each text becomes a user's turn in the tokenizer's chat template."""
    too_long: Literal["error", "cut_left"] = "error"
    """What to do with a text longer than the model's window: stop, or drop its first tokens."""

    @field_validator("position")
    @classmethod
    def _known_positions(cls, position: str | tuple[str, ...]) -> str | tuple[str, ...]:
        positions = (position,) if isinstance(position, str) else position
        for name in positions:
            if not _POSITION.fullmatch(name):
                which = "" if isinstance(position, str) else f"{name!r:.40}: "
                raise ValueError(
                    f"{which}should be last, first, mean, one of them with :FIELD, "
                    "span:FIELD, turn:ROLE, token:N or tokens"
                )
        if len(set(positions)) < max(len(positions), 1):
            raise ValueError("should be one position, or a list of different ones")
        return positions[0] if len(positions) == 1 else position

    @field_validator("layers")
    @classmethod
    def _different_layers(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers and len(set(layers)) < len(layers):
            raise ValueError("a number occurs twice")
        return layers

    @property
    def positions(self) -> tuple[str, ...]:
        """Return the positions that are read, in order."""
        return (self.position,) if isinstance(self.position, str) else self.position
