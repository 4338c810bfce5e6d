"""What the page draws of examples is what the predictions say, and the same ones for all models."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix

from llmprobe.reporting.page import examples as page_examples
from llmprobe.reporting.page.examples import bytes_each, in_bytes, points, sample_examples
from llmprobe.results.curve import Curve
from llmprobe.results.predictions import LayerScores, scores_by_layer


def of_classes(
    probabilities: np.ndarray, labels: Sequence[str], classes: Sequence[str], **columns: str
) -> pd.DataFrame:
    """The predictions that a probe with such probabilities writes. [layers, n, C]"""
    C = probabilities.shape[2]
    said = np.array(classes)[probabilities.argmax(axis=2)]
    score = probabilities[..., 1] if C == 2 else probabilities.max(axis=2)
    return table_of(score, said, np.array(labels), **columns)


def table_of(
    score: np.ndarray, said: np.ndarray, labels: np.ndarray, **columns: str
) -> pd.DataFrame:
    layers, n = score.shape
    rows = pd.DataFrame(
        {
            "model": "m",
            "dataset": "d",
            "layer": np.repeat(np.arange(layers), n),
            "example": np.tile(np.arange(n), layers),
            "fold": 0,
            "label": np.tile(labels, layers),
            "predicted": said.ravel(),
            "score": score.ravel(),
        }
    ).assign(**columns)
    # No table need be in the order of its layers and examples.
    return rows.sample(frac=1, random_state=0)


def probabilities(
    classes: Sequence[str], n: int = 90, layers: int = 4, seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Better from layer to layer. -> [layers, n, C], labels"""
    rng = np.random.default_rng(seed)
    C = len(classes)
    truth = rng.integers(0, C, n)
    logits = (
        rng.normal(size=(layers, n, C))
        + np.linspace(0, 3, layers)[:, None, None] * np.eye(C)[truth]
    )
    odds = np.exp(logits)
    return odds / odds.sum(axis=2, keepdims=True), [classes[i] for i in truth]


def read(table: pd.DataFrame, classes: Sequence[str] = ("a", "b")) -> LayerScores:
    scores = scores_of(table, classes)
    assert scores is not None
    return scores


def scores_of(table: pd.DataFrame, classes: Sequence[str]) -> LayerScores | None:
    """The scores of predictions of classes in the order of the probe, or of numbers."""
    rows = pd.DataFrame({"layer": sorted(table["layer"].unique())})
    main_score = "accuracy" if len(classes) else "r2"
    curve = Curve(rows, {"classes": json.dumps([*classes]), "main_score": main_score})
    return scores_by_layer(curve, table)


def shares(text: str, layers: int) -> np.ndarray:
    """Numbers from 0 to 1, as the script of the page reads them. [layers, m]"""
    found: np.ndarray = np.frombuffer(b64decode(text), dtype=np.uint8).reshape(layers, -1) / 255
    return found


HALF_A_STEP, A_STEP = 0.5 / 255 + 1e-9, 1 / 255 + 1e-9
TWO = [["false", "true"], ["0", "1"], ["9", "10"], ["10", "9"]]


@pytest.mark.parametrize("classes", TWO, ids=" then ".join)
def test_the_probability_of_the_truth_is_drawn_whatever_the_order_of_two_classes(
    classes: list[str],
) -> None:
    given, labels = probabilities(classes)
    found = read(of_classes(given, labels, classes), classes)
    of_the_truth = given[:, np.arange(90), [classes.index(label) for label in labels]]
    rows = np.array([3, 50, 7])
    right = shares(points(found, rows)["right"], 4)
    assert right == pytest.approx(of_the_truth[:, rows], abs=A_STEP)
    for byte, share in zip(right.ravel(), of_the_truth[:, rows].ravel(), strict=True):
        assert f"{byte:.2f}" == f"{share:.2f}"
    said = np.array(classes)[given.argmax(axis=2)]
    assert ((found.for_the_truth > 0.5) == (said == np.array(labels))).all()


def test_of_more_classes_the_predicted_one_is_drawn_and_what_speaks_for_the_truth() -> None:
    classes = ["1", "2", "10", "red", "blue"]
    given, labels = probabilities(classes)
    table = of_classes(given, labels, classes)
    found = read(table, classes)
    rows = np.arange(0, 90, 7)
    drawn = points(found, rows)
    said = np.array(found.classes)[
        np.frombuffer(b64decode(drawn["predicted"]), dtype=np.uint8).reshape(4, -1)
    ]
    assert (said == np.array(classes)[given.argmax(axis=2)][:, rows]).all()
    is_right = said == np.array(labels)[rows]
    most = given.max(axis=2)[:, rows]
    right = shares(drawn["right"], 4)
    assert right[is_right] == pytest.approx(most[is_right], abs=A_STEP)
    of_the_truth = given[:, np.arange(90), [classes.index(label) for label in labels]][:, rows]
    assert (right >= of_the_truth - A_STEP).all()
    assert (right[~is_right] <= 0.5 + A_STEP).all()
    assert right[~is_right] == pytest.approx(np.minimum(most, 1 - most)[~is_right], abs=A_STEP)


@pytest.mark.parametrize("near", [0.5, 0.5001, 0.4999])
def test_of_two_classes_the_predicted_one_can_be_told_at_the_middle_too(near: float) -> None:
    given = np.full((2, 10, 2), [1 - near, near])
    given[1, 0] = 0.1, 0.9  # Tells which class the scores are of.
    labels = ["no", "yes"] * 5
    found = read(of_classes(given, labels, ["no", "yes"]), ["no", "yes"])
    right = shares(points(found, np.arange(10))["right"], 2)
    assert ((right > 0.5) == found.is_right).all()
    assert right[0] == pytest.approx(0.5, abs=0.5 / 255 + 1e-3)
    assert found.is_right[0].sum() == 5


def of_numbers() -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(0)
    truth = rng.integers(1900, 2000, 80).astype(float)
    score = truth + rng.normal(size=(3, 80)) * np.array([60, 20, 1])[:, None]
    return score, table_of(score, score.astype(str), truth.astype(str))


def test_predictions_of_numbers_are_drawn_as_numbers() -> None:
    score, table = of_numbers()
    found = read(table, [])
    rows = np.array([1, 5, 60])
    drawn = points(found, rows)
    low, high = drawn["values"]
    values = low + (high - low) * shares(drawn["value"], 3)
    assert values == pytest.approx(score[:, rows], abs=HALF_A_STEP * (high - low))
    assert "predicted" not in drawn
    right = found.for_the_truth
    assert right.min() >= 0
    assert (right[2] > 0.9).all()
    assert right[0].mean() < right[1].mean() < right[2].mean()


def test_a_class_that_no_label_of_a_test_set_has_is_a_class_all_the_same() -> None:
    given, labels = probabilities(["a", "b", "c"])
    kept = [i for i, label in enumerate(labels) if label != "c"]
    classes = ["a", "b", "c"]
    found = read(of_classes(given[:, kept], [labels[i] for i in kept], classes), classes)
    assert found.confusion()[0].sum(axis=1)[2] == 0
    assert np.isfinite(found.for_the_truth).all()


def test_places_go_to_the_edge_and_no_farther() -> None:
    given, labels = probabilities(["a", "b"], n=5, layers=2)
    table = of_classes(given, labels, ["a", "b"]).sort_values(["layer", "example"])
    places = np.array([[0.0, 1.0, -1.5, 9.0, -30.0], [0.1, -0.1, 4.0, -4.0, 2.0]])
    found = read(table.assign(along=places.ravel(), across=-places.ravel()))
    drawn = points(found, np.arange(5))
    reach = drawn["reach"]
    for name, sign in (("along", 1), ("across", -1)):
        drawn_at = (shares(drawn[name], 2) * 2 - 1) * reach
        expected = sign * places.clip(-reach, reach)
        assert drawn_at == pytest.approx(expected, abs=2 * reach * HALF_A_STEP)


def test_places_that_are_not_known_are_left_out() -> None:
    given, labels = probabilities(["a", "b"])
    table = of_classes(given, labels, ["a", "b"])
    for unknown in (table, table.assign(along=np.nan, across=np.nan)):
        assert set(points(read(unknown), np.arange(3))) == {"right"}


@pytest.mark.parametrize("classes", [["9", "10"], ["a", "b", "c"]])
def test_confusion_is_scikit_learns(classes: list[str]) -> None:
    given, labels = probabilities(classes)
    found = read(of_classes(given, labels, classes), classes).confusion()
    for layer, cells in enumerate(found):
        said = np.array(classes)[given[layer].argmax(axis=1)]
        assert (cells == confusion_matrix(labels, said, labels=classes)).all()


@pytest.mark.parametrize("classes", [["10", "9"], ["a", "b", "c"]])
def test_calibration_is_scikit_learns(classes: list[str]) -> None:
    given, labels = probabilities(classes)
    found = read(of_classes(given, labels, classes), classes).calibration()
    for of_layer, bins in zip(given, found, strict=True):
        if len(classes) == 2:
            hit, score = np.array(labels) == classes[1], of_layer[:, 1]
        else:
            said = np.array(classes)[of_layer.argmax(axis=1)]
            hit, score = said == np.array(labels), of_layer.max(axis=1)
        share, mean = calibration_curve(hit, score, n_bins=10)
        assert [b[0] for b in bins] == pytest.approx(mean, abs=1e-9)
        assert [b[1] for b in bins] == pytest.approx(share, abs=1e-9)
        assert sum(b[2] for b in bins) == len(labels)


def test_a_probability_of_1_is_in_the_last_bin() -> None:
    sure = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    assert read(of_classes(sure, ["b", "a"], ["a", "b"])).calibration() == [
        [(0.0, 0.0, 1), (1.0, 1.0, 1)]
    ]


def test_predictions_that_lack_examples_or_scores_are_not_drawn() -> None:
    given, labels = probabilities(["a", "b"])
    table = of_classes(given, labels, ["a", "b"])
    one_for_another, unscored, other = table.copy(), table.copy(), table.copy()
    place = table.query("layer == 2 and example == 5").index[0]
    one_for_another.loc[place, "example"] = 6
    unscored.loc[place, "score"] = np.nan
    other.loc[place, "predicted"] = "c"
    for lacking in (table.iloc[1:], table.head(0), one_for_another, unscored, other):
        assert scores_of(lacking, ["a", "b"]) is None
    assert scores_of(table, ["a", "b"]) is not None


def test_predictions_of_other_layers_than_the_curve_are_not_drawn() -> None:
    table = of_classes(*probabilities(["a", "b"]), ["a", "b"])
    of_more = Curve(
        pd.DataFrame({"layer": range(5)}), {"main_score": "accuracy", "classes": '["a", "b"]'}
    )
    assert scores_by_layer(of_more, table) is None


def scores_from(model: str, n: int, seed: int = 0, layers: int = 4) -> LayerScores:
    given, labels = probabilities(["a", "b"], n, layers, seed)
    return read(of_classes(given, labels, ["a", "b"], model=model))


def planted(right: np.ndarray) -> LayerScores:
    """Two classes, and the probability of the right one. [layers, n]"""
    n = right.shape[1]
    truth = np.arange(n) % 2
    score = np.where(truth == 1, right, 1 - right)
    said = np.where(score > 0.5, "b", "a")
    return read(table_of(score, said, np.array(["a", "b"])[truth]))


def test_all_examples_of_a_small_dataset_are_drawn_in_their_order() -> None:
    (found,) = sample_examples({("m", "d"): scores_from("m", 50)}).values()
    assert found.examples.tolist() == list(range(50))
    assert (found.n_drawn, found.n) == (50, 50)


def test_the_examples_are_the_same_for_all_models_and_each_time() -> None:
    n = page_examples.MOST_DRAWN + 1000
    both = {("m", "d"): scores_from("m", n), ("other", "d"): scores_from("other", n, seed=0)}
    first, again = (sample_examples(both)["d"] for _ in range(2))
    assert (first.rows == again.rows).all()
    assert all(first.fits(its) for its in both.values())
    assert first.n_drawn == page_examples.MOST_DRAWN
    assert len(set(first.rows.tolist())) == len(first.rows)
    # A random part: about as many of each third.
    thirds = np.histogram(first.rows[: first.n_drawn], bins=3, range=(0, n))[0]
    assert thirds.min() > 0.9 * thirds.max()


def test_the_hardest_of_each_kind_are_listed_though_they_are_not_drawn() -> None:
    n = page_examples.MOST_DRAWN + 1500
    right = np.full((5, n), 0.9)
    in_part = sample_examples({("m", "d"): planted(right)})["d"].rows[: page_examples.MOST_DRAWN]
    hidden = np.setdiff1d(np.arange(n), in_part)
    always, once, late = hidden[[0, 700, 1200]]
    right[:, always] = 0.2
    right[1, once] = 0.01
    right[:4, late] = 0.45
    easy = {("easy", "d"): planted(np.full((5, n), 0.9)), ("m", "d"): planted(right)}
    found = sample_examples(easy)["d"]
    assert {always, once, late} <= set(found.rows[found.n_drawn :].tolist())
    assert not {always, once, late} & set(found.rows[: found.n_drawn].tolist())
    assert len(found.rows) <= found.n_drawn + 2 * 3 * page_examples.HARDEST


def test_a_model_that_was_scored_on_other_examples_is_not_drawn_with_the_first() -> None:
    one, other = scores_from("m", 60), scores_from("other", 50)
    moved = read(
        of_classes(*probabilities(["a", "b"], 60), ["a", "b"]).eval("example = example + 1")
    )
    found = sample_examples({("m", "d"): one, ("other", "d"): other, ("third", "d"): moved})["d"]
    assert [found.fits(its) for its in (one, other, moved)] == [True, False, False]


def test_points_of_all_curves_fit_into_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = {
        ("m", "d"): scores_from("m", 300),
        ("other", "d"): scores_from("other", 300, layers=8),
    }
    monkeypatch.setattr(page_examples, "POINT_BYTES", 12 * 100)
    found = sample_examples(curves)["d"]
    assert 75 <= found.n_drawn < len(found.rows) <= 100
    monkeypatch.setattr(page_examples, "POINT_BYTES", 12 * 5)
    assert sample_examples(curves) == {}


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "c"], []])
@pytest.mark.parametrize("placed", [True, False])
def test_the_size_of_points_is_known_before_they_are_made(classes: list[str], placed: bool) -> None:
    table = of_classes(*probabilities(classes), classes) if classes else of_numbers()[1]
    places = dict.fromkeys(["along", "across"], 0.5) if placed else {}
    found = read(table.assign(**places), classes)
    arrays = [its for its in points(found, np.arange(10)).values() if isinstance(its, str)]
    assert sum(len(b64decode(array)) for array in arrays) == 10 * bytes_each(found)


def test_more_classes_than_a_byte_can_tell_apart_are_not_drawn() -> None:
    for n, drawn in ((257, False), (256, True)):
        classes = [f"class {i}" for i in range(n)]
        table = table_of(np.full((2, n), 0.9), np.array([classes] * 2), np.array(classes))
        assert bool(sample_examples({("m", "d"): read(table, classes)})) is drawn


def test_numbers_become_bytes_and_what_is_none_becomes_0() -> None:
    text = in_bytes(np.array([0.0, 0.5, 1.0, -3.0, 7.0, np.nan, np.inf]))
    assert list(b64decode(text)) == [0, 128, 255, 0, 255, 0, 0]
