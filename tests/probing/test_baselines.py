"""The bag of words finds what the surface gives away, and nothing else."""

from __future__ import annotations

import numpy as np

from llmprobe.probing.baselines import bag_of_words_accuracy

Y = np.arange(60) % 2
FOLDS = np.arange(60) // 2 % 5


def test_a_word_that_tells_the_class_is_found() -> None:
    texts = [f"number {i} is {'odd' if odd else 'even'}" for i, odd in enumerate(Y)]
    assert bag_of_words_accuracy(texts, Y, FOLDS) == 1


def test_signs_count_as_words() -> None:
    texts = ["( [ ] )" if odd else "( { } )" for odd in Y]
    assert bag_of_words_accuracy(texts, Y, FOLDS) == 1


def test_words_of_the_test_fold_alone_tell_nothing() -> None:
    texts = [f"fold{fold}{'x' if odd else 'y'}" for fold, odd in zip(FOLDS, Y, strict=True)]
    relabelled = np.where(FOLDS % 2 == 0, Y, 1 - Y)
    assert bag_of_words_accuracy(texts, relabelled, FOLDS) < 0.6
