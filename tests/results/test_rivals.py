"""A rival is compared with a curve on the same examples, and what is said can be computed again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from llmprobe.results.resampling import Resamples
from llmprobe.results.rivals import rival_columns

RNG = np.random.default_rng(0)
N = 300
GROUPS = np.arange(N) // 3


def answers(labels: np.ndarray, right: np.ndarray, n_classes: int, rival: str) -> pd.DataFrame:
    """Answers that are right where that is told, with a probability of 0.8, in random order."""
    chosen = np.where(right, labels, (labels + 1) % n_classes)
    score = np.where(chosen == 1, 0.8, 0.2) if n_classes == 2 else np.full(N, 0.8)
    table = pd.DataFrame(
        {
            "example": np.arange(N),
            "label": labels.astype(str),
            "predicted": chosen.astype(str),
            "fold": 0,
        }
    )
    return table.assign(score=score, rival=rival).sample(frac=1, random_state=1)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_gain_is_the_difference_of_accuracies_and_its_interval_is_paired(
    n_classes: int,
) -> None:
    labels = RNG.integers(0, n_classes, N)
    ours = RNG.uniform(size=N) < 0.9
    alike, other = ours & (np.arange(N) % 20 > 0), np.roll(ours, 7) & (np.arange(N) % 20 > 0)
    rivals = pd.concat([
        answers(labels, alike, n_classes, "bag_of_words"),
        answers(labels, other, n_classes, "token_embeddings"),
    ])  # fmt: skip
    resamples = Resamples(N, GROUPS)
    classes = [str(k) for k in range(n_classes)]
    curve = answers(labels, ours, n_classes, "").drop(columns="rival")
    found = rival_columns(rivals, curve, "accuracy", classes, resamples)
    for rival, right in (("bag_of_words", alike), ("token_embeddings", other)):
        assert found[f"{rival}_accuracy"] == pytest.approx(right.mean())
        gain, low, high = (found[f"gain_over_{rival}{end}"] for end in ("", "_low", "_high"))
        assert gain == pytest.approx(ours.mean() - right.mean())
        assert low < gain < high
    widths = [
        found[f"gain_over_{rival}_high"] - found[f"gain_over_{rival}_low"]
        for rival in ("bag_of_words", "token_embeddings")
    ]
    # The intervals of the two alone meet; where the same examples are right, few differ.
    assert found["gain_over_bag_of_words_low"] > 0
    assert widths[0] < 0.8 * widths[1]


def test_rivals_of_numbers_are_compared_by_r2() -> None:
    truth = RNG.normal(size=N)
    tables = [
        pd.DataFrame(
            {"example": np.arange(N), "label": truth.astype(str), "score": guess, "fold": 0}
        )
        for guess in (truth + 0.1 * RNG.normal(size=N), np.zeros(N))
    ]
    curve, rival = (table.assign(predicted=table["score"].astype(str)) for table in tables)
    found = rival_columns(rival.assign(rival="bag_of_words"), curve, "r2", [], Resamples(N, GROUPS))
    assert set(found) == {"bag_of_words_r2", *(f"gain_over_bag_of_words{end}"
                                               for end in ("", "_low", "_high"))}  # fmt: skip
    assert found["gain_over_bag_of_words_low"] > 0.9


def test_no_rivals_have_no_columns() -> None:
    labels = RNG.integers(0, 2, N)
    curve = answers(labels, labels == labels, 2, "x")
    assert rival_columns(curve.head(0), curve, "accuracy", ["0", "1"], Resamples(N)) == {}
