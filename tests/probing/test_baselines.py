"""The bag of words finds what the surface gives away, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, r2_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_union

from llmprobe.probing.baselines import (
    STRENGTHS,
    bag_of_words,
    bag_of_words_accuracy,
    surface_accuracy,
)
from llmprobe.probing.splits import assign_folds

Y = np.arange(60) % 2
FOLDS = np.arange(60) // 2 % 5

JIN2024 = Path(__file__).parents[2].parent / "shared" / "datasets" / "jin2024"
needs_data = pytest.mark.skipif(not JIN2024.is_dir(), reason=f"{JIN2024} is not here")


def r2_of(texts: list[str], y: np.ndarray, fold_of: np.ndarray) -> float:
    return float(r2_score(y, bag_of_words(texts, y, fold_of, numbers=True)[:, 0]))


def test_a_word_that_tells_the_class_is_found() -> None:
    texts = [f"number {i} is {'odd' if odd else 'even'}" for i, odd in enumerate(Y)]
    assert bag_of_words_accuracy(texts, Y, FOLDS) == 1
    assert bag_of_words_accuracy(texts, np.array(["even", "odd"])[Y], FOLDS) == 1


def test_signs_count_as_words() -> None:
    texts = ["( [ ] )" if odd else "( { } )" for odd in Y]
    assert bag_of_words_accuracy(texts, Y, FOLDS) == 1


def test_words_of_the_test_fold_alone_tell_nothing() -> None:
    texts = [f"fold{fold}{'x' if odd else 'y'}" for fold, odd in zip(FOLDS, Y, strict=True)]
    relabelled = np.where(FOLDS % 2 == 0, Y, 1 - Y)
    assert bag_of_words_accuracy(texts, relabelled, FOLDS) < 0.6


def test_words_that_add_up_predict_a_number() -> None:
    counts = np.random.default_rng(0).integers(1, 6, (60, 2))
    texts = [" ".join(["up"] * up + ["down"] * down) for up, down in counts]
    assert r2_of(texts, counts[:, 0] - counts[:, 1], FOLDS) > 0.8
    assert r2_of(texts, np.random.default_rng(1).normal(size=60), FOLDS) < 0.1


@pytest.mark.parametrize("text", ["", " \n\t", "\x1c\xa0"])
def test_without_words_it_is_the_majority(text: str) -> None:
    texts, y = [text] * 60, (np.arange(60) % 3 == 0).astype(int)
    assert bag_of_words_accuracy(texts, y, assign_folds(y, None, 5)) == pytest.approx(2 / 3)
    assert r2_of(texts, y, assign_folds(y, None, 5)) == pytest.approx(0, abs=1e-9)


def test_words_in_one_fold_alone_or_one_class_alone_are_no_error() -> None:
    texts = np.where(FOLDS == 0, "a word", "")
    assert bag_of_words_accuracy(list(texts), Y, FOLDS) == pytest.approx(0.5, abs=0.2)
    alone = (np.arange(60) < 30).astype(int)
    assert bag_of_words_accuracy(["a word"] * 60, alone, 1 - alone) == 0


def noisy_words(n: int = 240) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts of many words that tell nothing and one that mostly does; groups of three."""
    rng = np.random.default_rng(0)
    y, groups = np.repeat(rng.integers(0, 2, n // 3), 3), np.repeat(np.arange(n // 3), 3)
    seen = np.where(rng.uniform(size=n) < 0.85, y, 1 - y)
    words = rng.integers(0, 300, (n // 3, 12))[groups]
    texts = [" ".join([*(f"w{w}" for w in row), "up down".split()[k]])
             for row, k in zip(words, seen, strict=True)]  # fmt: skip
    return texts, y, groups


def test_the_penalty_is_the_one_that_a_plain_loop_over_folds_of_groups_chooses() -> None:
    texts, y, groups = noisy_words()
    fold_of = assign_folds(y, groups, 5)
    found = bag_of_words(texts, y, fold_of, groups)
    train, test = fold_of != 0, fold_of == 0
    surface = make_union(
        TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]"),
        TfidfVectorizer(
            sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 4), max_features=20_000
        ),
    )
    words = np.array(texts)
    X = surface.fit_transform(words[train])
    within = assign_folds(y[train], groups[train], 4, 0)
    losses = []
    for strength in STRENGTHS:
        chances = np.empty((train.sum(), 2))
        for fold in range(4):
            model = LogisticRegression(C=strength, tol=1e-6, max_iter=10_000)
            model.fit(X[within != fold], y[train][within != fold])
            chances[within == fold] = model.predict_proba(X[within == fold])
        losses.append(log_loss(y[train], chances))
    best = STRENGTHS[int(np.argmin(losses))]
    assert best not in (1.0, STRENGTHS[0], STRENGTHS[-1])
    model = LogisticRegression(C=best, tol=1e-6, max_iter=10_000).fit(X, y[train])
    expected = model.predict_proba(surface.transform(words[test]))
    np.testing.assert_allclose(found[test], expected, atol=5e-3)


def test_probabilities_of_a_class_that_a_training_set_lacks_are_0() -> None:
    y, fold_of = np.array([0, 0, 0, 0, 1, 1, 2, 2]), np.array([0, 1] * 3 + [1, 1])
    predicted = bag_of_words([f"text {i}" for i in range(8)], y, fold_of)
    assert predicted.shape == (8, 3)
    np.testing.assert_allclose(predicted.sum(axis=1), 1)
    assert (predicted[fold_of == 1, 2] == 0).all()


def test_what_show_says_of_the_surface_keeps_groups_together() -> None:
    texts, y, groups = noisy_words()
    assert 0.6 < surface_accuracy(texts, y, groups) < 0.95


def cities() -> tuple[list[str], np.ndarray, np.ndarray]:
    table = pd.read_csv(JIN2024 / "cities.csv")
    table = pd.concat([table[table["label"] == 1], table[table["label"] == 0]])
    return table["statement"].to_list(), 1 - table["label"].to_numpy(), table["city"].to_numpy(str)


def strategy_qa() -> tuple[list[str], np.ndarray]:
    examples = json.loads((JIN2024 / "StrategyQA_task.json").read_text())["examples"]
    texts = []
    for answer in ("Yes.", "No."):
        of_answer = [e for e in examples if e["target"].startswith(answer)]
        texts += [f"{e['input']} {e['target'].removeprefix(answer).strip()}" for e in of_answer]
    return texts, np.repeat([0, 1], [1071, 1219])


@needs_data
@pytest.mark.parametrize(
    ("name", "accuracy", "auroc"), [("cities", 0.247, 0.155), ("strategyqa", 0.557, 0.579)]
)
def test_the_split_of_jin_et_al_gives_words_alone_what_is_known(
    name: str, accuracy: float, auroc: float
) -> None:
    """Classes in the study's order, bare texts, a split that knows no groups."""
    texts, y = cities()[:2] if name == "cities" else strategy_qa()
    texts_train, texts_test, y_train, y_test = train_test_split(
        texts, y, test_size=0.4, random_state=42
    )
    words = CountVectorizer()
    model = LogisticRegression(max_iter=1000).fit(words.fit_transform(texts_train), y_train)
    predicted = model.predict_proba(words.transform(texts_test))[:, 1]
    assert ((predicted > 0.5) == y_test).mean() == pytest.approx(accuracy, abs=5e-4)
    assert roc_auc_score(y_test, predicted) == pytest.approx(auroc, abs=5e-4)


@needs_data
def test_cities_are_below_chance_only_while_pairs_are_split() -> None:
    texts, y, city = cities()
    split = bag_of_words_accuracy(texts, y, assign_folds(y, None, 5))
    assert split == pytest.approx(0.388, abs=0.01)
    assert bag_of_words_accuracy(texts, y, assign_folds(y, city, 5)) == pytest.approx(0.5, abs=0.05)
