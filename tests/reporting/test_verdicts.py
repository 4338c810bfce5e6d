"""A curve is believed unless its baselines, its controls or its dataset speak against it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from synthetic_runs import curve_of

from llmprobe.reporting.verdicts import FEW_GROUPS, Verdict, verdict
from llmprobe.results.columns import RIVALS

NAN = float("nan")
RENAMED = {
    **{"p_value": "peak_p_value", "layer": "peak_layer"},
    **{name: f"{name}_accuracy" for name in RIVALS},
}
"""Property of a curve -> the column of the summary that has it."""


def judge(findings: Any = (), **changes: Any) -> Verdict:
    """The verdict on a curve of 0.90 [0.88, 0.92] that nothing speaks against, with changes."""
    known = {"p_value": 0.01, "bag_of_words": 0.52, "permutations": 99} | changes
    return verdict(curve_of(**{RENAMED.get(name, name): known[name] for name in known}), findings)


def test_what_nothing_speaks_against_holds_up() -> None:
    said = judge(random_weights=0.6)
    assert (said.level, said.title, said.against) == ("holds", "holds up", ())
    assert said.reasons == (
        "shuffled labels do not do as well (99 refits, p = 0.01)",
        "words alone reach 0.52, 0.38 less",
        "the untrained network reaches 0.60, 0.30 less",
    )


def test_what_was_not_scored_has_no_reasons() -> None:
    for changes in ({"layer": NAN}, {"peak_score": NAN, "peak_accuracy": NAN}):
        assert judge(**changes) == Verdict("unknown", (), ())
    assert judge(layer=NAN).title == "not scored"


def test_a_peak_that_is_not_above_chance_is_said_to_be_that() -> None:
    said = judge(p_value=0.4, bag_of_words=0.95, random_weights=0.95)
    assert (said.level, said.title) == ("chance", "not above chance")
    assert said.against == ()  # What reaches as much as nothing is no objection.
    assert "shuffled labels do as well in 40% of refits" in said.reasons


@pytest.mark.parametrize(
    ("reached", "least_gain", "words"),
    [
        (0.52, 0.3, None),
        (0.69, 0.1, None),
        (0.71, 0.1, "more than half of the rise may be"),
        (0.89, 0.001, "more than half of the rise may be"),
        (0.87, -0.01, "this curve may be"),
        (0.95, -0.1, "this curve may be"),
        (0.89, None, "more than half of the rise may be"),
        (0.90, None, "this curve may be"),
        (NAN, None, None),
    ],
)
@pytest.mark.parametrize(
    ("rival", "name"),
    [
        ("bag_of_words", "A bag of words"),
        ("token_embeddings", "The mean token embedding"),
        ("random_weights", "The untrained network"),
    ],
)
def test_a_rival_speaks_against_what_it_reaches_by_the_paired_interval(
    rival: str, name: str, reached: float, least_gain: float | None, words: str | None
) -> None:
    known = {"bag_of_words": 0.5, "p_value": 0.01} | {rival: reached}
    if least_gain is not None:
        gains = {"": 0.9 - reached, "_low": least_gain, "_high": 0.5}
        known |= {f"gain_over_{rival}{end}": gain for end, gain in gains.items()}
    said = judge(**known)
    if words is None:
        assert (said.level, said.against) == ("holds", ())
    else:
        assert said.level == "doubt"
        (sentence,) = said.against
        assert sentence.startswith(f"{name} reaches {reached:.2f}: {words}")


def test_words_that_are_below_chance_are_called_no_floor() -> None:
    said = judge(bag_of_words=0.31)
    assert said.level == "holds"
    assert said.reasons[1].startswith("words alone reach 0.31, below chance")
    assert "no floor" in said.reasons[1]
    few = judge(bag_of_words=0.42, layers={"n_groups": 100})
    assert "no floor" not in few.reasons[1]


def test_half_of_the_rise_is_counted_from_chance() -> None:
    layers = {"accuracy_high": 0.95}
    assert judge(chance=0.8, bag_of_words=0.84, layers=layers).level == "holds"
    assert judge(chance=0.8, bag_of_words=0.86, layers=layers).level == "doubt"


@pytest.mark.parametrize(("high", "against"), [(0.44, True), (0.46, False)])
def test_layers_far_below_chance_are_a_sign_of_torn_groups(high: float, against: bool) -> None:
    highs = np.full(19, 0.9)
    highs[:3] = high
    said = judge(layers={"accuracy_high": highs})
    assert any("3 of 19 layers are far below chance" in one for one in said.against) is against


def test_few_independent_examples_are_said() -> None:
    assert judge(layers={"n_groups": FEW_GROUPS}).level == "holds"
    said = judge(layers={"n_groups": FEW_GROUPS - 1})
    assert said.against == ("Only 49 independent examples: other ones could give another curve.",)
    assert judge(layers={"n_groups": NAN}).level == "holds"


def test_warnings_of_the_dataset_stand_beside_its_curve() -> None:
    said = judge(
        findings=[
            {"level": "warning", "check": "length", "message": "length alone reaches 0.81"},
            {"level": "note", "check": "size", "message": "there are 20 examples"},
        ]
    )
    assert said.against == ("In the dataset, length alone reaches 0.81.",)
    assert said.level == "doubt"


def test_what_was_not_looked_at_is_said() -> None:
    said = judge(p_value=NAN, bag_of_words=NAN)
    assert said.reasons == ("no p-value was asked for", "no bag of words to compare with")
    few = judge(permutations=9, p_value=0.1)
    assert few.reasons[0] == "9 shuffles are too few for a p-value to say much"
    unknown = judge(permutations=None)
    assert unknown.reasons[0] == "shuffled labels do not do as well (p = 0.01)"


@pytest.mark.parametrize("reached", [0.8, 0.95])
def test_an_objection_is_not_also_a_reason(reached: float) -> None:
    said = judge(bag_of_words=reached, random_weights=reached)
    assert len(said.against) == 2
    assert not [one for one in said.reasons if "words" in one or "untrained" in one]


def test_r2_is_judged_from_0() -> None:
    r2 = {"accuracy": NAN, "accuracy_low": NAN, "accuracy_high": NAN, "n_classes": 0, "r2": 0.6}
    of_numbers = {"layers": r2, "main_score": "r2", "score": 0.6, "peak_r2": 0.6}
    assert judge(**of_numbers, bag_of_words_r2=0.05).level == "holds"
    surface = judge(**of_numbers, bag_of_words_r2=0.6)
    assert surface.against[0].startswith("A bag of words reaches")


def test_a_baseline_near_chance_is_no_objection_where_the_interval_reaches_down_to_it() -> None:
    gains = {f"gain_over_{rival}_low": -0.02 for rival in RIVALS}
    assert judge(**gains, bag_of_words=0.52, random_weights=0.52).against == ()
    assert len(judge(**gains, bag_of_words=0.62, random_weights=0.62).against) == 2


def test_many_labels_are_a_fault_of_classes_and_not_of_numbers() -> None:
    many = {"level": "warning", "check": "classes", "message": "94 distinct labels for 300 texts"}
    of_numbers = {"main_score": "r2", "layers": {"r2": 0.9}, "peak_r2": 0.9}
    assert judge(findings=[many]).level == "doubt"
    assert judge(findings=[many], **of_numbers).level == "holds"
    assert judge(findings=[many | {"check": "words"}], **of_numbers).level == "doubt"
