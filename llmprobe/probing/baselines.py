"""What a classifier reaches without the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from threadpoolctl import threadpool_limits


def bag_of_words_accuracy(texts: Sequence[str], y: np.ndarray, fold_of: np.ndarray) -> float:
    """Out-of-fold accuracy of the surface alone: TF-IDF of words and of character 2- to 4-grams.

    The same folds as the probes, so what it reaches they could have read off the words.
    """
    words = np.asarray(texts, dtype=object)
    right = np.empty(len(y), dtype=bool)
    with threadpool_limits(1):
        for fold in range(int(fold_of.max()) + 1):
            train, test = fold_of != fold, fold_of == fold
            surface = make_union(
                TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]"),
                TfidfVectorizer(
                    sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 4), max_features=20_000
                ),
            )
            classifier = make_pipeline(surface, LogisticRegression(max_iter=1000))
            right[test] = classifier.fit(words[train], y[train]).predict(words[test]) == y[test]
    return float(right.mean())
