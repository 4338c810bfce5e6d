"""Baselines that read the surface of the texts, without the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.pipeline import make_union
from threadpoolctl import threadpool_limits

from llmprobe.ground.errors import UserError
from llmprobe.probing.splits import ENOUGH, INNER_FOLDS, assign_folds, some_units

TOKEN = r"(?u)\w+|[^\w\s]"
"""The pattern of a word, or of a mark outside of words."""

SEARCH_TOLERANCE = 1e-3
"""Tolerance of fits that only tell penalties apart."""

TURNED = 1.1
"""The search for a penalty ends where the held-out loss exceeds this times the least so far."""

STRENGTHS = (1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3)
"""The grid of 1 / L2 penalty, from strong to weak penalties. (Features of a text have a norm of
about 1.4, so 0.01 all but switches them off.)"""


def bag_of_words(
    texts: Sequence[str],
    y: np.ndarray,
    fold_of: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    numbers: bool = False,
    seed: int = 0,
) -> np.ndarray:
    """Return out-of-fold predictions from TF-IDF of words and of character 2- to 4-grams.

    Folds are those of the probes, so whatever it scores, the probes could have read off the words.
    Its penalty is chosen inside each training set, as theirs is: the one of ``STRENGTHS`` with the
    least loss in 4 folds of whole groups. Where the training texts have no words, it predicts the
    shares of the classes, or the mean.

    Parameters
    ----------
    texts
        [n]
    y
        The class of each text, or a number. [n]
    fold_of
        From ``assign_folds``; -1 for rows that are trained on only. [n]
    groups
        Rows that share a group are not separated when a penalty is chosen. [n]
    numbers
        Whether y are numbers, not classes.

    Returns
    -------
    Probabilities of the C classes, sorted, or predicted numbers; 0 for rows in no fold.
    [n, C or 1]
    """
    words = np.asarray(texts, dtype=object)
    classes, codes = np.unique(y, return_inverse=True)
    target = np.asarray(y, dtype=float) if numbers else codes
    predicted = np.zeros((len(y), 1 if numbers else len(classes)))
    with threadpool_limits(1):
        for fold in range(int(fold_of.max()) + 1):
            train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            X, X_test = _features(words[train], words[test])
            of_train = None if groups is None else groups[train]
            model = _fitted(X, target[train], of_train, numbers, seed)
            if numbers:
                predicted[test, 0] = model.predict(X_test)
            else:
                predicted[np.ix_(test, model.classes_)] = model.predict_proba(X_test)
    return predicted


def lengths(texts: Sequence[str]) -> np.ndarray:
    """Return how many characters, and how many words and marks, each text has. [n, 2]"""
    counts = [(len(text), len(re.findall(TOKEN, text))) for text in texts]
    return np.array(counts, dtype=np.float32)


def surface_accuracy(
    texts: Sequence[str], labels: np.ndarray, unit_of: np.ndarray | None, folds: int = 5
) -> float:
    """Return the accuracy of a bag of words on the folds that a probe of these labels would have.

    Raises
    ------
    UserError
        There are too few examples or units for ``folds``.
    """
    return bag_of_words_accuracy(texts, labels, assign_folds(labels, unit_of, folds), unit_of)


def bag_of_words_accuracy(
    texts: Sequence[str],
    labels: np.ndarray,
    fold_of: np.ndarray,
    groups: np.ndarray | None = None,
) -> float:
    """Return the accuracy of a bag of words, over the rows that are in a fold."""
    predicted = bag_of_words(texts, labels, fold_of, groups).argmax(axis=1)
    right = predicted == np.unique(labels, return_inverse=True)[1]
    return float(right[fold_of >= 0].mean())


def _features(train: np.ndarray, test: np.ndarray) -> tuple[csr_matrix, csr_matrix]:
    """Return TF-IDF features that are fitted on ``train``; one feature of zeros without words."""
    if not any(map(str.strip, train)):
        return csr_matrix((len(train), 1)), csr_matrix((len(test), 1))
    surface = make_union(
        TfidfVectorizer(sublinear_tf=True, token_pattern=TOKEN),
        TfidfVectorizer(
            sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 4), max_features=20_000
        ),
    )
    return surface.fit_transform(train), surface.transform(test)


def _fitted(
    X: csr_matrix, y: np.ndarray, groups: np.ndarray | None, numbers: bool, seed: int
) -> BaseEstimator:
    """Return the model of a training set, at the penalty that is best inside it."""
    if not numbers and (y == y[0]).all():
        return DummyClassifier().fit(X, y)
    rows = some_units(np.arange(len(y)), ENOUGH, groups, seed)
    of_rows = None if groups is None else groups[rows]
    try:
        within = assign_folds(y[rows], of_rows, INNER_FOLDS, seed, stratify=not numbers)
    except UserError:  # Too few examples to choose a penalty; probes with a fixed one need fewer.
        return _model(1.0, numbers).fit(X, y)

    splits = [(rows[within != fold], rows[within == fold]) for fold in range(INNER_FOLDS)]
    # From strong to weak penalties, each from its last solution, until the loss rises again.
    models = [_model(1.0, numbers, tol=SEARCH_TOLERANCE) for _ in splits]
    losses: list[float] = []
    for strength in STRENGTHS:
        loss = 0.0
        for model, (train, held_out) in zip(models, splits, strict=True):
            _set_strength(model, strength).fit(X[train], y[train])
            loss += _loss(model, X[held_out], y[held_out])
        losses.append(loss)
        if loss > TURNED * min(losses):
            break
    return _model(STRENGTHS[int(np.argmin(losses))], numbers).fit(X, y)


def _model(strength: float, numbers: bool, **options: Any) -> BaseEstimator:
    if numbers:
        return Ridge(alpha=1 / strength, **options)
    return LogisticRegression(C=strength, max_iter=1000, warm_start=True, **options)


def _set_strength(model: BaseEstimator, strength: float) -> BaseEstimator:
    if isinstance(model, Ridge):
        return model.set_params(alpha=1 / strength)
    return model.set_params(C=strength)


def _loss(model: BaseEstimator, X: csr_matrix, y: np.ndarray) -> float:
    """Return the total loss of some rows: squared errors of numbers, else in nats."""
    if isinstance(model, Ridge):
        return float(((model.predict(X) - y) ** 2).sum())
    chances = model.predict_proba(X)
    return float(log_loss(y, chances, labels=model.classes_, normalize=False))
