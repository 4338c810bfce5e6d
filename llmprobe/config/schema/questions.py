"""What is asked of a concept beyond whether it is readable."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from llmprobe.config.schema.section import Section


class TransferConfig(Section):
    """Which sets of examples probes are fitted on, and which others they are scored on."""

    by: str | None = None
    """A field of a dataset, each value of which is a set; datasets without it are sets whole. By
    default every dataset is one."""
    train: tuple[str, ...] = ()
    """The sets that probes are fitted on, by the names of the datasets or values; by default all.
    """
    test: tuple[str, ...] = ()
    """The sets that are scored; by default all."""
    leave_one_out: bool = False
    """Whether probes are fitted on all values of the field but one too, and scored on that one:
    what is read in a wording, say, that was never fitted on."""
    mask: tuple[str, ...] = ()
    """Fields whose text is replaced by "something" in every text, which probes of the whole dataset
    score then: what they still read is not read from there."""
    across_layers: bool = False
    """Whether probes of every layer are scored on the states of every other one too."""
    entity: str | None = None
    """The field that names what an example is about, where sets of different datasets share that
    and it is not seen by itself (docs/evidence.md)."""

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
    """Whether a model uses what is read of it: states are changed, and what it then says."""

    layers: Literal["auto"] | tuple[NonNegativeInt, ...] = "auto"
    """The layers whose states are changed; ``auto`` is every one of a model of up to 32 blocks, and
    of a larger one some around the best."""
    null: int = Field(default=50, ge=19, le=1000)
    """How many directions that say nothing each effect is compared with: half are fitted to
    shuffled labels, half are random."""
    n: int = Field(default=200, ge=20)
    """Most texts whose states are changed; of more, so many, in turn one of each group."""


class LinearConfig(Section):
    """Whether a curved probe would read more, and how many directions a linear one takes."""

    features: PositiveInt = 2048
    """The number of random features of the states that a curved probe has beside them."""
    layers: tuple[NonNegativeInt, ...] | Literal["auto"] = "auto"
    """The layers; ``auto`` is the best one and four from the first to the last."""
    null: NonNegativeInt = 19
    """The number of shuffled labellings whose gaps the gap is compared with."""
    rank: bool = True
    """Whether to count the principal directions that a probe takes at the best layer, and how many
    directions are enough one after the other."""
