"""What words give away: single words, and words that pairs of texts share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.findings import ALPHA, Finding, Units, label_text, percent, quoted_text
from llmprobe.datasets.groups import group_indices

_WORD = r"(?u)\w+|[^\w\s]"
"""A word, or a single punctuation mark."""

_WORD_GAIN = 0.05
_SMALL_GROUP = 20
"""A word that at most this many texts share may be a subject that comes in pairs."""
_MOST = 0.5
_MOST_CLASSES = 20
"""With more classes, pairs with opposite labels are not looked for."""
_EVEN = 0.6
"""Below this share of the spread over subjects that chance gives, labels were balanced by hand."""
_DEVIATIONS = 4
"""By how many standard deviations the spread must be below what chance gives."""
_TOGETHER = 0.9


@dataclass(frozen=True)
class Words:
    """Which words each text has."""

    names: np.ndarray
    """[V]"""
    in_text: Any
    """0 or 1, scipy.sparse. [n, V]"""
    n_texts: np.ndarray
    """How many texts have it. [V]"""

    @classmethod
    @lru_cache(maxsize=1)
    def of(cls, texts: tuple[str, ...]) -> Words:
        """Count words; cached for the concepts of one dataset, which have the same texts."""
        from sklearn.feature_extraction.text import CountVectorizer

        vectorizer = CountVectorizer(binary=True, token_pattern=_WORD, dtype=np.int64)
        in_text = vectorizer.fit_transform(texts)
        n_texts = np.asarray(in_text.sum(axis=0)).ravel()
        return cls(vectorizer.get_feature_names_out(), in_text, n_texts)


def single_words(dataset: ConceptDataset, words: Words) -> Iterator[Finding]:
    """Yield a finding if the presence of a word gives the label away."""
    classes, y = np.unique(dataset.labels, return_inverse=True)
    n, one_hot = len(y), np.eye(len(classes), dtype=np.int64)[y]
    frequent = np.flatnonzero(words.n_texts >= max(5, n / 100))
    in_text = words.in_text[:, frequent]
    having = in_text.T @ one_hot
    lacking = one_hot.sum(axis=0) - having
    right = (having.max(axis=1) + lacking.max(axis=1)) / n
    majority = np.bincount(y).max() / n
    groups = Units.of(dataset.groups, y)
    sentences: dict[bytes, str] = {}
    best = 0.0
    for word in np.argsort(-right, kind="stable"):
        if right[word] - majority < _WORD_GAIN or len(sentences) == 3:
            break
        has = in_text[:, [word]].toarray().ravel()
        # The rarer case is the telling one: "'not' is in 20 %", "'.' is missing from 3 %".
        counts, where = having[word], "is in"
        if counts.sum() > 2 * n / 3:
            counts, where = lacking[word], "is missing from"
        c = int((counts / counts.sum() - np.bincount(y) / n).argmax())
        p = groups.p_value(has, c) * len(frequent) * len(classes)
        if p < ALPHA and has.tobytes() not in sentences:
            best = max(best, right[word])
            sentences[has.tobytes()] = (
                f"{str(words.names[frequent[word]])!r} {where} {percent(counts.sum() / n)} of the "
                f"texts, {percent(counts[c] / counts.sum())} of them labelled "
                f"{label_text(classes[c])}"
            )
    if sentences:
        yield Finding("warning", "words", f"a single word gives labels away: "
                      f"{'; '.join(sentences.values())}; the best one alone gets {percent(best)} "
                      f"right, the majority class {percent(majority)}")  # fmt: skip


def pairs(dataset: ConceptDataset, words: Words) -> Iterator[Finding]:
    """Yield a finding if the labels of texts that share a subject are too even for chance.

    A subject is a rare word, or the same words in another order. If labels were balanced within
    subjects and nothing keeps a subject in one fold, a probe that recognises the subject answers
    with the label of the twin that it was trained on, which is wrong, and scores below chance.
    """
    if len(dataset.classes) > _MOST_CLASSES:
        return
    unit_of = group_indices(dataset.groups, len(dataset))
    one_hot = np.eye(len(dataset.classes))[np.unique(dataset.labels, return_inverse=True)[1]]
    for subjects, what in (
        (_rare_words(words), "words that a few texts share"),
        (_reordered(words), "sets of texts with the same words in another order"),
    ):
        subjects = _torn(subjects, unit_of, one_hot)
        if np.mean(subjects.sum(axis=1) > 0) < _MOST:
            continue
        counts = subjects.T @ one_hot
        expected = counts.sum(axis=1, keepdims=True) * one_hot.mean(axis=0)
        # Chi-squared over its degrees of freedom: 1 on average when labels are dealt at random,
        # with a standard deviation of about 1.
        spread = ((counts - expected) ** 2 / expected).sum(axis=1) / (one_hot.shape[1] - 1)
        deviations = (1 - spread.mean()) * np.sqrt(len(spread))
        even = counts.max(axis=1) == counts.min(axis=1)
        if even.mean() > _MOST and spread.mean() < _EVEN and deviations > _DEVIATIONS:
            twins = subjects[:, even].tocsc()
            yield Finding("warning", "pairs", "texts come in pairs with opposite labels, such as "
                          f"{_example(dataset, twins)}: of {len(even):,} {what}, "
                          f"{percent(even.mean())} have as many of each label; "
                          f"{_remedy(dataset, twins)}")  # fmt: skip
            return


def _example(dataset: ConceptDataset, twins: Any) -> str:
    """Quote two texts of the first subject with different labels; ``twins`` [n, subjects]."""
    subject = twins.indices[twins.indptr[:-1]].argmin()
    rows = twins.indices[twins.indptr[subject] : twins.indptr[subject + 1]]
    other = rows[dataset.labels[rows] != dataset.labels[rows[0]]][0]
    return f"{quoted_text(dataset, rows[0])} and {quoted_text(dataset, other)}"


def _remedy(dataset: ConceptDataset, twins: Any) -> str:
    """Say which column would keep twins in one fold; ``twins`` is scipy.sparse [n, subjects]."""
    fitting = {}
    for column, values in dataset.fields.items():
        codes, distinct = values.astype(str).factorize()
        if _together(twins, codes).mean() > _TOGETHER and len(distinct) > 1:
            fitting[str(column)] = len(distinct)
    risk = "a probe tested on a text was trained on its twin, and may score below chance"
    if not fitting:
        return f"give twins one group, or {risk}"
    return f"use `group: {max(fitting, key=lambda column: fitting[column])}`, or {risk}"


def _torn(subjects: Any, unit_of: np.ndarray, one_hot: np.ndarray) -> Any:
    """Keep the subjects that splits tear apart, without units in which their labels are even.

    Even labels in a unit say nothing about the rest of the subject. -> [n, fewer subjects], 0 or 1
    """
    from scipy.sparse import csc_array  # type: ignore[import-untyped]

    row, subject = subjects.tocoo().coords
    cells = np.unique(subject * (unit_of.max() + 1) + unit_of[row], return_inverse=True)[1]
    of_class = np.zeros((cells.max(initial=-1) + 1, one_hot.shape[1]))
    np.add.at(of_class, cells, one_hot[row])
    uneven = (of_class.max(axis=1) > of_class.min(axis=1))[cells]
    ones = np.ones(int(uneven.sum()), dtype=np.int64)
    left = csc_array((ones, (row[uneven], subject[uneven])), shape=subjects.shape)
    left = left[:, left.sum(axis=0) > 1]
    return left[:, ~_together(left, unit_of)]


def _together(subjects: Any, unit_of: np.ndarray) -> np.ndarray:
    """Return which subjects have all their texts in one unit. [subjects] bool"""
    subjects = subjects.tocsc()
    if not subjects.shape[1]:
        return np.zeros(0, dtype=bool)
    of_text, first = unit_of[subjects.indices], subjects.indptr[:-1]
    together: np.ndarray = np.minimum.reduceat(of_text, first) == np.maximum.reduceat(
        of_text, first
    )
    return together


def _rare_words(words: Words) -> Any:
    """Return words that a few texts share; words in the same texts count once. [n, subjects]"""
    rare = words.in_text.tocsc()[:, (words.n_texts > 1) & (words.n_texts <= _SMALL_GROUP)]
    keys = np.random.default_rng(0).integers(2**40, size=rare.shape[0])
    return rare[:, np.unique(rare.T @ keys, return_index=True)[1]]


def _reordered(words: Words) -> Any:
    """Return which texts have the same words. [n, subjects], 0 or 1"""
    from scipy.sparse import csc_array

    keys = words.in_text @ np.random.default_rng(0).integers(2**40, size=words.in_text.shape[1])
    _, subject_of, n_texts = np.unique(keys, return_inverse=True, return_counts=True)
    rows = np.arange(len(keys))
    subjects = csc_array((np.ones(len(keys), dtype=np.int64), (rows, subject_of)))
    return subjects[:, (n_texts > 1) & (n_texts <= _SMALL_GROUP)]
