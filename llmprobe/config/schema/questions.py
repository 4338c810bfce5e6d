"""Further questions about a concept, besides whether it is readable."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from llmprobe.config.schema.section import Section


class TransferConfig(Section):
    """Which sets of examples probes are fitted on, and which others they are scored on."""

    by: str | None = None
    """A field that divides datasets into sets, one for each of its values; a dataset without the
    field is one set. By default every dataset is one set."""
    train: tuple[str, ...] = ()
    """The sets to fit probes on, by the names of datasets or values; by default all."""
    test: tuple[str, ...] = ()
    """The sets to score; by default all."""
    leave_one_out: bool = False
    """Whether to also fit probes on all values of the field except one, and score them on that one:
    on a wording, say, that they were not fitted on."""
    mask: tuple[str, ...] = ()
    """Fields whose text is replaced by "something" in every text. Probes of the whole dataset are
    scored on these texts too: what they still read does not come from the field."""
    across_layers: bool = False
    """Whether to score probes of every layer on the states of every other layer too."""
    entity: str | None = None
    """The field that names what an example is about, if different datasets share these entities and
    llmprobe does not find that field itself (docs/evidence.md)."""

    @model_validator(mode="after")
    def _one_of_a_field(self) -> TransferConfig:
        if self.leave_one_out and self.by is None:
            raise ValueError("leave_one_out leaves out one value of a field: give by: FIELD too")
        return self

    @field_validator("train", "test", "mask", mode="before")
    @classmethod
    def _as_list(cls, names: Any) -> Any:
        names = [names] if isinstance(names, str | int | float) else names
        return [str(name) for name in names] if isinstance(names, list | tuple) else names


class InterveneConfig(Section):
    """Whether a model uses what probes read: its states are changed, and its answers compared."""

    layers: Literal["auto"] | tuple[NonNegativeInt, ...] = "auto"
    """The layers whose states are changed; ``auto`` is all layers of a model of up to 32 blocks,
    and some of a larger one, densest around the best layer."""
    null: int = Field(default=50, ge=19, le=1000)
    """The number of meaningless directions that each effect is compared with: half are fitted to
    shuffled labels, half are random."""
    n: int = Field(default=200, ge=20)
    """The most texts whose states are changed; from more texts, this many are drawn, one of each
    group in turn."""


class LinearConfig(Section):
    """Whether a curved probe would read more, and how many directions a linear one takes."""

    features: PositiveInt = 2048
    """The number of random features of the states that a curved probe reads besides the states."""
    layers: tuple[NonNegativeInt, ...] | Literal["auto"] = "auto"
    """The layers to test; ``auto`` is the best one and four spread from the first to the last."""
    null: NonNegativeInt = 19
    """The number of shuffled labellings; the gap is compared with the gaps on them."""
    rank: bool = True
    """Whether to count two things at the best layer: the principal directions that a probe needs,
    and how many directions are each enough, one after the other (docs/said-used-linear.md)."""
