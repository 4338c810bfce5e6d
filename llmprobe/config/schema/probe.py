"""How probes are fitted and layers are scored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, field_validator

from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema.section import Section, Seed, name_in

Fraction = Annotated[float, Field(gt=0, le=1)]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # Python would take it for 0 or 1.
        raise ValueError("should be a valid number")
    return value


def _in_range(penalty: float) -> float:
    # Far outside this range, fits in float32 underflow or overflow.
    if not 1e-12 <= penalty <= 1e12:
        raise ValueError("should be from 1e-12 to 1e12")
    return penalty


Penalty = Annotated[float, BeforeValidator(_no_bool), AfterValidator(_in_range)]


_POOLING = re.compile(r"mean|max|attention|last-\d{1,6}|softmax(-\d{1,6}(\.\d{1,6})?)?")


class ProbeConfig(Section):
    """How probes are fitted and layers are scored."""

    kind: Annotated[str, AfterValidator(name_in(PROBE_KINDS))] = "logistic"
    """The kind of probe. ``logistic``: logistic regression on standardised states, L2 penalty,
    unpenalised intercept. ``mass_mean``: the difference of the class means. ``unscaled``:
    scikit-learn's logistic regression with its defaults (Jin et al. 2024). ``ridge``: linear
    regression with an L2 penalty, for labels that are numbers. Or a kind of your own
    (``llmprobe.probing.kinds``)."""
    folds: int = Field(default=5, ge=2)
    """The number of outer cross-validation folds. They are stratified, and keep groups whole if the
    dataset has groups."""
    repeats: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """How often all examples are dealt out to folds. Scores are means over the repeats, since a
    single deal moves an accuracy by a percent or two. ``auto``: 3 with 20 or more ``permutations``,
    which cost far more than that, else 1."""
    l2: Penalty | Literal["auto"] = "auto"
    """The penalty (scikit-learn's 1/C), 1e-12 to 1e12; ``auto``: chosen in each training fold."""
    controls: tuple[
        Literal[
            "majority",
            "bag_of_words",
            "token_embeddings",
            "text_encoder",
            "length",
            "perplexity",
            "random_labels",
            "random_weights",
        ],
        ...,
    ] = ("majority", "bag_of_words", "token_embeddings", "random_labels")
    """What scores are compared with. ``majority``: the most frequent class. The next five predict
    the label from something other than hidden states. ``bag_of_words``: from words and letters of
    the text. ``token_embeddings``: from the mean of the model's token embeddings. ``text_encoder``:
    from the sentence embeddings of another, small model. ``length``: from the numbers of characters
    and of words. ``perplexity``: from the model's own perplexity of the text, which loads the model
    with its head. ``random_labels``: what a probe can memorise about groups. ``random_weights``:
    the same architecture untrained, which doubles the extraction."""
    text_encoder: str = Field(default="minilm", min_length=1)
    """The model of the control ``text_encoder``: a known name, a Hub id or a folder, preferably of
    a sentence-transformers model."""
    pooling: tuple[str, ...] = Field(
        default=("mean", "max", "last-5", "softmax", "attention"), min_length=1
    )
    """With ``position: tokens``, how a probe over tokens makes one answer for a text; each pooling
    has a curve, at the position ``tokens:mean`` and so on. ``mean``, ``last-K``: a probe of the
    mean state of all tokens, or of the last K. ``max``: the largest score of a token.
    ``softmax-T``: the mean score, weighted by the soft-max of score / T (1 by default).
    ``attention``: the mean score, weighted by the soft-max of a second linear function (one learned
    query)."""
    permutations: int = Field(default=100, ge=0)
    """The number of refits on shuffled labels; the smallest p-value is 1 / (permutations + 1)."""
    description_length: bool = True
    """Whether to compute the length of an online code of the labels (Voita & Titov 2020)."""
    learning_curve: tuple[Fraction, ...] = ()
    """Fractions of the training groups to train on, besides all of them, e.g. [0.1, 0.3]."""
    calibrate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of the units, such as 0.3, that the saved probe of two classes is not fitted on, so
    that the false positive rates of its thresholds are guaranteed (docs/probing.md). Scores in the
    tables, which come from other probes, still cover all units."""
    multi_layer: tuple[NonNegativeInt, ...] | Literal["auto"] | None = Field(
        default=None, min_length=2
    )
    """Layers that one more probe reads together, such as [6, 12, 18], or ``auto`` for four at the
    quarters of the depth. The probe reads their states side by side, or takes the mean of the
    logits of their own probes, whichever does better inside each training fold (docs/probing.md).
    """
    device: str = "auto"
    """Where probes are fitted; ``auto`` is CUDA if there is a GPU, else the CPU."""
    seed: Seed = 0
    """The seed of folds, shuffled and random labels, and the bootstrap."""

    @property
    def n_repeats(self) -> int:
        """Return how often examples are dealt out to folds."""
        if self.repeats == "auto":
            return 3 if self.permutations >= 20 else 1
        return self.repeats

    def alone(self, **others: Any) -> ProbeConfig:
        """Return the config with nothing beside the probes: no controls, no p-values and so on."""
        nothing: dict[str, Any] = {
            "controls": (), "permutations": 0, "description_length": False, "learning_curve": (),
            "calibrate": None, "multi_layer": None,
        }  # fmt: skip
        return self.model_copy(update=nothing | others)

    @field_validator("multi_layer")
    @classmethod
    def _several_layers(cls, layers: Any) -> Any:
        if isinstance(layers, tuple) and len(set(layers)) < len(layers):
            raise ValueError("a number occurs twice")
        return tuple(sorted(layers)) if isinstance(layers, tuple) else layers

    @field_validator("pooling")
    @classmethod
    def _known_poolings(cls, pooling: tuple[str, ...]) -> tuple[str, ...]:
        for name in pooling:
            if not _POOLING.fullmatch(name) or not float(name.partition("-")[2] or 1):
                raise ValueError(
                    f"{name!r:.40}: should be mean, max, attention, last-K (such as last-5), "
                    "softmax, or softmax-T (such as softmax-0.5)"
                )
        return tuple(dict.fromkeys(pooling))

    @field_validator("learning_curve")
    @classmethod
    def _each_once(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(fractions)))


def curve_positions(read: Sequence[str], config: ProbeConfig) -> tuple[str, ...]:
    """Return the curves' positions, in which ``tokens`` becomes one ``tokens:POOLING`` for each."""
    pooled = tuple(f"tokens:{name}" for name in config.pooling)
    return tuple(
        position for name in read for position in (pooled if name == "tokens" else (name,))
    )
