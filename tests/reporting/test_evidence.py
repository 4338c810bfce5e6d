"""A verdict is written from answers, each with its number, and says no more than was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import capitals, curve_of, environment, probed_run, write_page

from llmprobe.results.answers_of_scores import FEW_UNITS
from llmprobe.results.evidence import USED_SHARE, evidence_of
from llmprobe.results.folder import EVIDENCE, read_results, refresh_evidence
from llmprobe.results.questions import MARGIN, QUESTIONS, TRANSFER_MARGIN, Answer, Evidence
from llmprobe.results.results import Results
from llmprobe.results.units_needed import units_needed

NAN = float("nan")
TEXTS = {"bag_of_words": "words", "token_embeddings": "tokens", "text_encoder": "a text encoder"}
ALL = {**TEXTS, "length": "length", "random_weights": "the untrained network"}


def asked(findings: Any = (), **changes: Any) -> Evidence:
    """The evidence of a curve of 0.90 [0.88, 0.92] in 500 units, with changes."""
    known = {"peak_p_value": 0.01, "permutations": 99, "repeats": 3.0}
    known |= beaten("bag_of_words", 0.52, 0.34, 0.42)
    return evidence_of(curve_of(**(known | changes)), findings)


def beaten(rival: str, score: float, low: float, high: float) -> dict[str, float]:
    """Columns of the summary: a rival, and the interval of how much better the curve is."""
    gains = {"": (low + high) / 2, "_low": low, "_high": high}
    return {
        f"{rival}_accuracy": score,
        **{f"gain_over_{rival}{end}": gain for end, gain in gains.items()},
    }


def transferred(low: float, high: float, p: float = 0.001) -> dict[str, Any]:
    """Columns of the summary: the worst transfer."""
    return {
        **{"worst_transfer_auroc": (low + high) / 2, "worst_transfer_auroc_low": low},
        **{"worst_transfer_auroc_high": high, "worst_transfer_p_value": p},
        "worst_transfer_test": "negated",
    }


def answer(key: str, findings: Any = (), **changes: Any) -> Answer:
    """The answer to one question."""
    return asked(findings, **changes).questions[key]


def test_the_line_is_what_was_asked_and_names_what_was_not() -> None:
    assert asked().line == (
        "readable (0.90 [0.88, 0.92] at layer 13 of 18); more than words tell; stable over "
        "examples and folds; not asked: beyond untrained, transfers, said, used, linear"
    )
    known = asked(stays_above_half_depth=0.31, **transferred(0.10, 0.17))
    assert known.line == (
        "readable from layer 6 on (0.90 [0.88, 0.92] at layer 13 of 18); more than words tell; "
        "stable over examples and folds; reads the opposite on negated (0.14 [0.10, 0.17]); not "
        "asked: beyond untrained, said, used, linear"
    )
    gone = asked(stays_above_half_depth=0.31, falls_below_half_depth=0.6)
    assert gone.line.startswith("readable from layer 6 to 11 (")


@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize("known", [{}, transferred(0.7, 0.8), beaten("random_weights", 0.6, 0, 1)])
def test_the_line_claims_nothing_that_was_not_asked(known: Mapping[str, Any], unread: bool) -> None:
    evidence = asked(**known, **({"peak_p_value": 0.4} if unread else {}))
    claims, _, rest = evidence.line.partition("not asked: ")
    about = {
        "above_chance": "readable|above chance",
        "beyond_text": "words",
        "beyond_untrained": "untrained",
        "stable": "stable|examples",
        "transfers": "transfer|negated",
        **{key: key for key in ("said", "used", "linear")},
    }
    for key, words in about.items():
        is_asked = evidence.questions[key].answer in ("yes", "no", "unclear")
        assert bool(re.search(words, claims)) is is_asked, key
        is_unasked = evidence.questions[key].answer == "not asked"
        assert (QUESTIONS[key].name in rest.split(", ")) is is_unasked


def test_every_question_has_an_answer_in_one_order_and_all_are_json() -> None:
    known = asked().as_json()
    assert list(known) == ["model", "dataset", "position", "line", "questions"]
    keys = "above_chance beyond_text beyond_untrained stable transfers said used linear".split()
    assert list(known["questions"]) == keys
    for one in known["questions"].values():
        assert list(one) == ["answer", "value", "low", "high", "sentence"]
        assert one["sentence"]
    assert known["questions"]["said"]["value"] is None
    json.dumps(known, allow_nan=False)


def test_what_was_not_scored_is_said_and_nothing_else() -> None:
    for changes in ({"peak_layer": NAN}, {"peak_score": NAN, "peak_accuracy": NAN}):
        evidence = asked(**changes)
        assert evidence.line == "not scored"
        assert {one.answer for one in evidence.questions.values()} == {"unclear", "does not apply"}


def of_nothing(high: float, **changes: Any) -> Answer:
    """Whether a curve of 0.51 is above chance whose layers end at ``high``, with p = 0.2."""
    layers = {"accuracy_high": high, "n_groups": changes.pop("units", 400)}
    known = {"score": 0.51, "low": 0.48, "peak_p_value": 0.2} | changes
    return answer("above_chance", layers=layers, **known)


def test_no_needs_the_intervals_of_all_layers_within_the_margin() -> None:
    assert of_nothing(0.5 + MARGIN).answer == "no"
    assert of_nothing(0.5 + MARGIN + 0.001).answer == "unclear"
    highs = np.full(19, 0.52)
    highs[3] = 0.56
    unclear = of_nothing(highs)  # type: ignore[arg-type]
    assert unclear.answer == "unclear"
    assert of_nothing(NAN).answer == "unclear"
    assert of_nothing(0.54, peak_p_value=0.05).answer == "yes"


def test_a_p_value_of_one_fifth_is_unclear_and_says_how_many_units_would_tell() -> None:
    unclear = answer("above_chance", score=0.54, low=0.48, peak_p_value=0.2)
    assert unclear.answer == "unclear"
    assert "p = 0.200 by 99 shuffles of the labels" in unclear.sentence
    needed = re.search(r"About ([\d,]+) independent examples would tell \(there are 500\)",
                       unclear.sentence)  # fmt: skip
    assert needed
    assert int(needed[1].replace(",", "")) > 500
    assert unclear.clause == (
        "unclear whether above chance (0.54 [0.48, 0.56] at layer 13 of 18, p = 0.200)"
    )


def test_units_are_what_gives_the_power_in_a_simulation() -> None:
    rng = np.random.default_rng(0)
    needed = units_needed(100, error=np.sqrt(0.25 / 100), distance=0.06)
    shares = rng.binomial(round(needed), 0.56, 20_000) / round(needed)
    found = np.abs(shares - 0.5) > 1.96 * np.sqrt(0.25 / needed)
    assert found.mean() == pytest.approx(0.8, abs=0.02)
    assert units_needed(100, 0.05, 0) == np.inf


def test_a_p_value_is_written_once() -> None:
    for p, adjusted, text in (
        (0.0099, 0.0101, "p = 0.010 by 99 shuffles of the labels."),
        (0.0099, 0.03, "p = 0.010 by 99 shuffles of the labels, 0.030 adjusted for"),
        (0.0002, 0.0002, "p < 0.001 by 99 shuffles"),
    ):
        sentence = answer("above_chance", peak_p_value=p, peak_p_value_adjusted=adjusted).sentence
        assert text in sentence
        assert len(re.findall(r"\bp [=<]", sentence)) == 1


def test_why_there_is_no_p_value_is_said() -> None:
    sentence = answer("above_chance", peak_p_value=NAN).sentence
    assert sentence.endswith("no p-value was asked for.")
    few = answer("above_chance", peak_p_value=NAN, relabellings=6).sentence
    assert "in 6 ways only, too few for a p-value" in few
    coarse = answer("above_chance", permutations=9, peak_p_value=0.1)
    assert coarse.answer == "yes"  # By its interval.
    assert "9 shuffles are too few for a p-value to say much" in coarse.sentence


def test_without_interval_and_p_value_nothing_is_claimed() -> None:
    bare = answer("above_chance", layers={"accuracy_low": NAN}, peak_p_value=NAN)
    assert bare.answer == "unclear"
    assert "neither an interval nor a p-value" in bare.sentence


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.001, 0.4, "yes"), (0.001, 0.02, "yes"), (0.0, 0.4, "unclear"),
        (-0.2, MARGIN, "no"), (-0.2, MARGIN + 0.001, "unclear"), (-0.3, -0.1, "no"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rival", ALL)
def test_a_rival_is_answered_by_the_paired_interval(
    rival: str, low: float, high: float, word: str
) -> None:
    key = "beyond_untrained" if rival == "random_weights" else "beyond_text"
    known = {"bag_of_words_accuracy": NAN, **beaten(rival, 0.6, low, high)}
    one = answer(key, **known)
    assert (one.answer, one.low, one.high) == (word, low, high)
    assert ALL[rival] in one.clause
    assert "0.60" in one.sentence
    assert ("independent examples would tell" in one.sentence) is (word == "unclear")


def test_the_rival_that_does_best_decides() -> None:
    words = beaten("bag_of_words", 0.52, 0.34, 0.42)
    tokens, encoder = "token_embeddings", "text_encoder"
    both = answer("beyond_text", **words, **beaten(tokens, 0.6, 0.2, 0.4))
    assert (both.answer, both.low) == ("yes", 0.2)
    assert both.clause == "more than words and tokens tell"
    unclear = answer("beyond_text", **words, **beaten(tokens, 0.85, -0.01, 0.1))
    assert (unclear.answer, unclear.clause) == ("unclear", "unclear whether more than tokens tell")
    least = answer(
        "beyond_text", **words, **beaten(tokens, 0.85, -0.01, 0.1), **beaten(encoder, 0.9, -0.1, 0)
    )
    assert (least.answer, least.clause) == ("no", "no more than a text encoder tell")


def test_what_explains_most_of_the_rise_is_named_where_the_curve_is_better() -> None:
    little = answer("beyond_text", **beaten("bag_of_words", 0.85, 0.01, 0.09))
    assert little.answer == "yes"
    assert little.clause == "a little more than words tell"
    assert "More than half of the rise may be words." in little.sentence
    much = answer("beyond_text", **beaten("bag_of_words", 0.69, 0.15, 0.25))
    assert "half of the rise" not in much.sentence


def test_a_rival_below_chance_is_no_floor() -> None:
    inverted = answer("beyond_text", **beaten("bag_of_words", 0.31, 0.5, 0.7))
    assert inverted.answer == "unclear"
    assert "0.31, below chance" in inverted.sentence
    assert "no floor" in inverted.sentence
    beside = answer(
        "beyond_text",
        **beaten("bag_of_words", 0.31, 0.5, 0.7),
        **beaten("token_embeddings", 0.6, 0.2, 0.4),
    )
    assert (beside.answer, beside.clause) == ("yes", "more than tokens tell")
    assert "no floor" in beside.sentence
    few = answer("beyond_text", layers={"n_groups": 100}, bag_of_words_accuracy=0.42)
    assert "no floor" not in few.sentence


def test_a_rival_applies_only_to_what_is_above_chance_and_was_asked_for() -> None:
    unread = {"peak_p_value": 0.4}
    assert answer("beyond_text", **unread).answer == "does not apply"
    assert answer("beyond_text", bag_of_words_accuracy=NAN).answer == "not asked"
    assert answer("beyond_text", bag_of_words_accuracy=NAN, position="").answer == "does not apply"
    assert answer("beyond_untrained").answer == "not asked"
    known = beaten("random_weights", 0.6, 0.2, 0.4)
    assert answer("beyond_untrained", **known, **unread).answer == "does not apply"


def test_a_run_without_paired_intervals_is_unclear() -> None:
    old = evidence_of(curve_of(bag_of_words_accuracy=0.6)).questions["beyond_text"]
    assert old.answer == "unclear"
    assert "no paired interval" in old.sentence


def test_r2_is_counted_from_0() -> None:
    r2 = {"accuracy": NAN, "accuracy_low": NAN, "accuracy_high": NAN, "n_classes": 0, "r2": 0.6}
    known = {"layers": r2, "main_score": "r2", "score": 0.6, "peak_r2": 0.6}
    rival = {"bag_of_words_r2": 0.1, "gain_over_bag_of_words_low": 0.4}
    one = answer("beyond_text", **known, **rival, gain_over_bag_of_words=0.5)
    assert (one.answer, one.value) == ("yes", 0.5)
    assert answer("above_chance", **known).sentence.startswith("R² 0.60 at layer 13 of 18, chance")


@pytest.mark.parametrize(("high", "word"), [(0.44, "no"), (0.46, "yes")])
def test_layers_far_below_chance_are_a_sign_of_torn_groups(high: float, word: str) -> None:
    highs = np.full(19, 0.9)
    highs[:3] = high
    one = answer("stable", layers={"accuracy_high": highs})
    assert one.answer == word
    assert ("3 of 19 layers are far below chance" in one.sentence) is (word == "no")


def test_few_units_and_wide_intervals_are_unclear() -> None:
    assert answer("stable", layers={"n_groups": FEW_UNITS}).answer == "yes"
    few = answer("stable", layers={"n_groups": FEW_UNITS - 1})
    assert (few.answer, few.value) == ("unclear", 49)
    assert few.sentence.startswith("Only 49 independent examples")
    assert answer("stable", low=0.71).answer == "yes"
    wide = answer("stable", low=0.69)
    assert wide.answer == "unclear"
    assert "About 560 independent examples would tell (there are 500)" in wide.sentence


def test_what_is_stable_says_on_what_that_rests() -> None:
    assert "500 independent examples, dealt out to folds 3 times" in answer("stable").sentence
    assert "dealt out to folds once" in answer("stable", repeats=1).sentence
    assert answer("stable", layers={"n_groups": NAN}).answer == "not asked"
    assert answer("stable", peak_p_value=0.4).answer == "does not apply"


def test_warnings_of_the_dataset_stand_beside_its_curve() -> None:
    warning = {"level": "warning", "check": "length", "message": "length alone reaches 0.81"}
    note = {"level": "note", "check": "size", "message": "there are 20 examples"}
    one = answer("stable", [warning, note])
    assert (one.answer, one.sentence) == (
        "unclear", "In the dataset, length alone reaches 0.81.",
    )  # fmt: skip
    assert "length alone" in answer("stable", [warning], peak_p_value=0.4).sentence
    many = {"level": "warning", "check": "classes", "message": "94 distinct labels for 300 texts"}
    numbers = {"main_score": "r2", "layers": {"r2": 0.9, "r2_low": 0.8}, "peak_r2": 0.9}
    assert answer("stable", [many]).answer == "unclear"
    assert answer("stable", [many], **numbers).answer == "yes"


@pytest.mark.parametrize(
    ("low", "high", "word", "clause"),
    [
        (0.5 + TRANSFER_MARGIN + 0.01, 0.9, "yes", "transfers, at worst to negated"),
        (0.5 + TRANSFER_MARGIN, 0.9, "unclear", "unclear whether it transfers to negated"),
        (0.45, 0.5 + TRANSFER_MARGIN, "no", "does not transfer to negated"),
        (0.45, 0.5 + TRANSFER_MARGIN + 0.01, "unclear", "unclear whether it transfers"),
        (0.10, 0.17, "no", "reads the opposite on negated (0.14 [0.10, 0.17])"),
        (0.40, 0.49, "no", "reads the opposite on negated"),
    ],
)
def test_the_worst_transfer_is_answered_by_its_interval(
    low: float, high: float, word: str, clause: str
) -> None:
    one = answer("transfers", **transferred(low, high))
    assert (one.answer, one.low, one.high) == (word, low, high)
    assert one.clause.startswith(clause)


def test_a_probe_of_a_part_of_the_dataset_is_said_to_be_that() -> None:
    known = transferred(0.10, 0.17) | {"worst_transfer_train": "affirmed"}
    one = answer("transfers", **known)
    assert one.clause == "fitted on affirmed it reads the opposite on negated (0.14 [0.10, 0.17])"
    assert one.sentence.startswith("At worst, fitted on affirmed and scored on negated, AUROC 0.14")
    own = answer("transfers", **(known | {"worst_transfer_train": "capitals"}))
    assert own.clause == "reads the opposite on negated (0.14 [0.10, 0.17])"
    assert own.sentence.startswith("At worst, scored on negated, AUROC 0.14")
    held = answer("transfers", **(known | transferred(0.7, 0.8)))
    assert held.clause.startswith("transfers, at worst from affirmed to negated (")


@pytest.mark.parametrize(
    ("low", "high", "clause"),
    [
        (0.55, 0.8, "without city too (AUROC 0.68 [0.55, 0.80])"),
        (0.42, 0.5 + TRANSFER_MARGIN, "not without city"),
        (0.2, 0.4, "without city the opposite"),
        (0.45, 0.7, "unclear whether without city"),
    ],
)
def test_what_is_readable_without_a_field_is_said_where_it_was_asked(
    low: float, high: float, clause: str
) -> None:
    known = {"masked_auroc": (low + high) / 2, "masked_auroc_low": low, "masked_auroc_high": high,
             "masked_field": "city"}  # fmt: skip
    plain, one = answer("above_chance"), answer("above_chance", **known)
    assert one.answer == plain.answer == "yes"
    assert one.clause.startswith(f"{plain.clause}, {clause}")
    assert one.sentence.startswith(plain.sentence)
    assert "AUROC" in one.sentence
    assert answer("above_chance", **known, peak_p_value=0.4).clause.count("city") == 0


def test_the_worst_transfer_of_numbers_is_answered_by_their_rank_correlation() -> None:
    def of(low: float, high: float) -> dict[str, Any]:
        known = transferred(low, high)
        return {name.replace("auroc", "rank_correlation"): value for name, value in known.items()}

    for low, high, word in ((0.3, 0.6, "yes"), (-0.1, 0.15, "no"), (-0.7, -0.2, "no"),
                            (0.1, 0.5, "unclear")):  # fmt: skip
        assert answer("transfers", **of(low, high)).answer == word
    opposite = answer("transfers", **of(-0.7, -0.2))
    assert "rank correlation -0.45 [-0.70, -0.20]" in opposite.sentence
    assert opposite.clause.startswith("reads the opposite on negated")


def test_a_transfer_without_a_p_value_that_allows_for_the_matrix_is_unclear() -> None:
    assert answer("transfers", **transferred(0.7, 0.9, p=0.06)).answer == "unclear"
    assert answer("transfers", **transferred(0.7, 0.9, p=NAN)).answer == "yes"
    assert answer("transfers").answer == "not asked"
    assert answer("transfers", worst_transfer_auroc=NAN).answer == "not asked"
    known = transferred(0.7, 0.9)
    assert answer("transfers", **known, peak_p_value=0.4).answer == "does not apply"


def measured(name: str, low: float, high: float, **more: Any) -> dict[str, Any]:
    """Columns of the summary: a number, half-way between the ends of its interval."""
    return {name: (low + high) / 2, f"{name}_low": low, f"{name}_high": high, **more}


def said(low: float, high: float, gap: float = 0.3, share: float = 1.0) -> dict[str, Any]:
    """Columns of the summary: what the model says, ``gap`` below what is read."""
    more = {"said_accuracy": 0.5, "said_next_token_share": share, "said_layer": 9.0}
    less = measured("readable_minus_said", gap - 0.1, gap + 0.1)
    return measured("said_auroc", low, high, **less, **more)


@pytest.mark.parametrize(
    ("low", "high", "word", "clause"),
    [
        (0.6, 0.7, "yes", "the model says less of it than is readable from layer 9 on"),
        (0.48, 0.5 + MARGIN, "no", "the model does not say it"),
        (0.3, 0.4, "no", "the model says the opposite"),
        (0.48, 0.5 + 1.1 * MARGIN, "unclear", "unclear whether the model says it"),
        (0.5, 0.7, "unclear", "unclear whether the model says it"),
    ],
)
def test_what_is_said_is_answered_by_its_interval(
    low: float, high: float, word: str, clause: str
) -> None:
    one = answer("said", **said(low, high))
    assert one.answer == word
    assert one.clause.startswith(f"{clause} (")
    assert (one.low, one.high) == (low, high)


def test_less_is_said_than_is_readable_only_where_the_gap_is_sure() -> None:
    assert answer("said", **said(0.6, 0.7, gap=0.1)).clause.startswith("the model says it from")
    for share, others in ((0.25, "75%"), (0.875, "12%")):
        sentence = answer("said", **said(0.6, 0.7, share=share)).sentence
        assert f"After {others} of the texts that were tried" in sentence
    assert "texts that were tried" not in answer("said", **said(0.6, 0.7)).sentence


@pytest.mark.parametrize(
    ("low", "high", "p", "word"),
    [
        (0.2, 0.4, 0.05, "yes"), (0.2, 0.4, 0.06, "unclear"), (-0.01, 0.4, 0.01, "unclear"),
        (0.01, 0.9 * USED_SHARE, 0.01, "no"), (0.01, 1.1 * USED_SHARE, 0.01, "unclear"),
        (1.17, 1.17, 0.01, "unclear"), (0.0, 0.0, 0.01, "unclear"),  # One unit has no interval.
    ],
)  # fmt: skip
def test_use_needs_a_share_beside_its_p_value(low: float, high: float, p: float, word: str) -> None:
    more = {"used_p_value": p, "used_layer": 7.0, "used_direction": "mean_difference"}
    one = answer("used", **measured("used_share", low, high, **more))
    assert one.answer == word
    assert "at layer 7 along the mean difference direction" in one.sentence


@pytest.mark.parametrize(
    ("low", "high", "p", "detectable", "word"),
    [
        (0.02, 0.1, 0.05, 0.2, "no"), (0.02, 0.1, 0.1, 0.2, "unclear"),
        (-0.01, MARGIN, 0.5, 0.2, "yes"), (-0.01, MARGIN, 0.5, MARGIN, "unclear"),
        (-0.01, 1.1 * MARGIN, 0.5, 0.2, "unclear"),
    ],
)  # fmt: skip
def test_no_gap_counts_only_where_one_could_have_been_found(
    low: float, high: float, p: float, detectable: float, word: str
) -> None:
    more = {"linearity_gap_p_value": p, "linearity_gap_detectable": detectable}
    one = answer("linear", **measured("linearity_gap", low, high, **more))
    assert one.answer == word
    doubted = word == "unclear" and detectable <= MARGIN
    assert ("could hardly have been found" in one.sentence) is doubted


@pytest.mark.parametrize(
    ("key", "column"),
    [("said", "said_note"), ("used", "used_note"), ("linear", "linearity_note")],
)
def test_why_a_question_cannot_be_asked_is_its_answer(key: str, column: str) -> None:
    one = answer(key, **{column: "Its weights are random."})
    assert (one.answer, one.sentence) == ("does not apply", "Its weights are random.")
    assert not one.clause
    assert answer(key, **{column: ""}).answer == answer(key).answer == "not asked"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run of one model on two datasets, the second of which cannot be read."""
    out = tmp_path_factory.mktemp("run")
    return probed_run(out, {"small": 2}, [capitals(n=60), capitals("coin_flip", 40)])


def test_the_file_the_page_and_the_results_say_the_same(run: Results) -> None:
    written = json.loads((run.folder / EVIDENCE).read_text("utf-8"))
    assert written == [one.as_json() for one in run.evidence]
    assert [(one["model"], one["dataset"], one["position"]) for one in written] == [
        curve.key for curve in run.curves
    ]
    page = write_page(run.folder / "report.html", run).read_text("utf-8")
    cells = re.findall(r'<td class="is-([a-z-]+)">', page)
    answers = [[one["answer"] for one in entry["questions"].values()] for entry in written]
    asked = [{*of_question} != {"not asked"} for of_question in zip(*answers, strict=True)]
    assert cells == [answer.replace(" ", "-") for row in answers for answer in compress(row, asked)]
    assert "holds up" not in page
    for entry in written:
        assert f"{entry['model']} on {entry['dataset']}</strong>: {entry['line']}" in page
        for one in entry["questions"].values():
            assert f">{one['sentence']}</span>" in page


def test_findings_of_the_dataset_reach_its_curves(run: Results) -> None:
    (first, _) = run.evidence
    message = environment([], ["capitals"])["datasets"][0]["findings"][0]["message"]
    assert message in first.questions["stable"].sentence


def test_a_changed_file_is_noticed_and_made_again(run: Results) -> None:
    path = run.folder / EVIDENCE
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"unclear", b"yes"))
    (note,) = read_results(run.folder).notes
    assert EVIDENCE in note
    assert "makes it again" in note
    refresh_evidence(run.folder, run)
    assert path.read_bytes() == whole
    assert read_results(run.folder).notes == ()


def test_a_folder_without_the_file_is_answered_from_its_tables(run: Results) -> None:
    path = run.folder / EVIDENCE
    whole = path.read_bytes()
    path.unlink()
    again = read_results(run.folder)
    assert again.notes == ()
    assert [one.line for one in again.evidence] == [one.line for one in run.evidence]
    refresh_evidence(run.folder, again)
    assert path.read_bytes() == whole


def test_columns_of_a_transfer_reach_the_file(run: Results, tmp_path: Path) -> None:
    summary = run.summary.assign(**transferred(0.10, 0.17))
    refresh_evidence(tmp_path, Results(run.table, summary, pd.DataFrame()))
    written = json.loads((tmp_path / EVIDENCE).read_text("utf-8"))
    assert written[0]["questions"]["transfers"]["answer"] == "no"
    assert written[0]["questions"]["transfers"]["high"] == 0.17
    assert "reads the opposite on negated" in written[0]["line"]
