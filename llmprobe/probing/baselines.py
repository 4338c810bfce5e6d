"""What the surface of the texts gives away without the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline, make_union
from threadpoolctl import threadpool_limits

from llmprobe.datasets.groups import units
from llmprobe.probing.splits import assign_folds


def bag_of_words_accuracy(texts: Sequence[str], y: np.ndarray, fold_of: np.ndarray) -> float:
    """Return the out-of-fold accuracy of TF-IDF of words and of character 2- to 4-grams.

    The same folds as the probes, so what it reaches they could have read off the words. Where the
    training texts have no words, or one class, it is the accuracy of their majority class.

    Parameters
    ----------
    texts
        [n]
    y
        The class of each text. [n]
    fold_of
        From ``assign_folds``; -1 for rows that are trained on only. [n]
    """
    logistic = LogisticRegression(max_iter=1000)
    predicted = _out_of_fold(texts, y, fold_of, logistic, DummyClassifier())
    scored = fold_of >= 0
    return float((predicted == y)[scored].mean())


def surface_accuracy(
    texts: Sequence[str], labels: np.ndarray, groups: np.ndarray | None, folds: int = 5
) -> float:
    """Return ``bag_of_words_accuracy`` with the folds that a probe of these labels would have.

    Raises
    ------
    UserError
        There are too few examples or groups for ``folds``.
    """
    fold_of = assign_folds(labels, units(groups, texts), folds)
    return bag_of_words_accuracy(texts, labels, fold_of)


def bag_of_words_r2(texts: Sequence[str], y: np.ndarray, fold_of: np.ndarray) -> float:
    """Return the out-of-fold R² of a ridge regression on TF-IDF features, for numbers y [n].

    At most 1; 0 is what the mean of all labels reaches, and less is worse than that.
    """
    y = np.asarray(y, dtype=float)
    predicted, scored = _out_of_fold(texts, y, fold_of, Ridge(), DummyRegressor()), fold_of >= 0
    return float(r2_score(y[scored], predicted[scored]))


def _out_of_fold(
    texts: Sequence[str],
    y: np.ndarray,
    fold_of: np.ndarray,
    on_words: BaseEstimator,
    without: BaseEstimator,
) -> np.ndarray:
    """Return predictions for each fold, fitted on the rest. -> [n], of rows in no fold anything

    ``without`` features takes over where there are none to fit ``on_words`` on.
    """
    words = np.asarray(texts, dtype=object)
    predicted = np.empty_like(y)
    surface = make_union(
        TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]"),
        TfidfVectorizer(
            sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 4), max_features=20_000
        ),
    )
    with threadpool_limits(1):
        for fold in range(int(fold_of.max()) + 1):
            train, test = fold_of != fold, fold_of == fold
            usable = any(map(str.strip, words[train])) and (y[train] != y[train][0]).any()
            estimator = make_pipeline(surface, on_words) if usable else without
            predicted[test] = estimator.fit(words[train], y[train]).predict(words[test])
    return predicted
