"""What is wrong or misleading in a dataset, found before any model is loaded.

A probe's score is read as "the model knows". Each check looks for another reason to score well or
badly: one class is most of the texts, the length or one word gives the label away, twins with
opposite labels stand on both sides of a split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.concepts.groups import group_indices, units

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

_WORD = r"(?u)\w+|[^\w\s]"
"""A word, or a single punctuation mark."""

_ALPHA = 0.001
"""What p-values are held against, after Bonferroni's correction within a check."""
_MAJORITY = 0.7
_FEW = 10
"""Independent examples of a class below which five folds of it say little."""
_TEXTS_PER_LABEL = 5
_AUROC_OFF = 0.1
_RANK_CORRELATION = 0.2
_WORD_GAIN = 0.05
_SMALL_GROUP = 20
"""Texts that share a word, at most, for it to be taken for a subject that comes in pairs."""
_MOST = 0.5
_MOST_CLASSES = 20
"""For which pairs with opposite labels are looked for."""
_EVEN = 0.6
"""Of the spread of labels over subjects that chance gives: below it they were balanced by hand."""
_DEVIATIONS = 4
"""Standard deviations by which it is below what chance gives."""
_TOGETHER = 0.9


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    level: Level
    """"error": cannot be probed; "warning": scores will mislead; "note": to keep in mind."""
    check: str
    """Which check says so: "repeats", "classes", "majority", "groups", "length", "words",
    "pairs"."""
    message: str
    """A sentence with numbers, without the dataset's name."""


def check(dataset: ConceptDataset) -> list[Finding]:
    """Everything that is found, errors first. Takes about a second for 16,000 short texts.

    Random labels give no warning, but for one or two in a thousand datasets.
    """
    numbers = dataset.labels.dtype.kind == "f"
    findings = [*_repeats(dataset), *_groups(dataset)]
    if not numbers:
        findings += [*_classes(dataset), *_majority(dataset)]
    # A copy of a text would count as evidence of its own.
    first = np.unique(np.array(dataset.texts, dtype=object), return_index=True)[1]
    if len(np.unique(dataset.labels[first])) > 1:
        distinct = dataset.take(np.sort(first))
        findings += _length_of_numbers(distinct) if numbers else _length(distinct)
        if not numbers and not _are_scores(distinct):
            words = _Words.of(distinct.texts)
            findings += [*_single_words(distinct, words), *_pairs(distinct, words)]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def _are_scores(dataset: ConceptDataset) -> bool:
    """Whether there are too many distinct labels for them to be classes."""
    return len(dataset.classes) > max(2, len(dataset) / _TEXTS_PER_LABEL)


def _repeats(dataset: ConceptDataset) -> Iterator[Finding]:
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(dataset.texts):
        rows_of.setdefault(text, []).append(row)
    n, repeats = len(dataset), len(dataset) - len(rows_of)
    if not repeats:
        return
    rows = max(rows_of.values(), key=len)
    example = _quoted_text(dataset, rows[0])
    if len(rows_of) == 1:
        yield Finding("error", "repeats", f"all {n:,} texts are the same: {example}")
        return
    message = f"{repeats:,} of {n:,} texts repeat another: {example} occurs {len(rows)} times"
    labels = dataset.labels
    repeated = [rows for rows in rows_of.values() if len(rows) > 1]
    contradictory = [rows for rows in repeated if (labels[rows] != labels[rows[0]]).any()]
    if contradictory:
        rows = contradictory[0]
        one, other = map(_label, np.unique(labels[rows])[:2])
        message += (
            f", and {_quoted_text(dataset, rows[0])} is labelled {one} and {other} "
            f"(distinct texts with more than one label: {len(contradictory):,})"
        )
    level: Level = "warning" if contradictory or repeats >= n / 100 else "note"
    yield Finding(level, "repeats", f"{message}; copies stay in one fold and count as one")


def _groups(dataset: ConceptDataset) -> Iterator[Finding]:
    if dataset.groups is None:
        return
    n = len(dataset)
    names, group_of, sizes = np.unique(dataset.groups, return_inverse=True, return_counts=True)
    if len(names) == 1:
        yield Finding("error", "groups", f"all {n:,} texts are in one group, {_quoted(names[0])}, "
                                         "so no split can keep it whole")  # fmt: skip
        return
    if len(names) == n:
        yield Finding("note", "groups", f"each of the {n:,} groups is one text, which is the same "
                                        "as no groups")  # fmt: skip
        return
    if sizes.max() > n / 2:
        yield Finding("warning", "groups", f"group {_quoted(names[sizes.argmax()])} has "
                      f"{percent(sizes.max() / n)} of the texts, so the fold that tests it "
                      "is trained on the few others")  # fmt: skip
    if dataset.labels.dtype.kind == "f" or _are_scores(dataset):
        return
    classes, y = np.unique(dataset.labels, return_inverse=True)
    of_class = _table(group_of, y)
    shared = sizes > 1
    if sizes[shared].sum() < n / 2 or (of_class[shared].max(axis=1) < sizes[shared]).any():
        return
    # How likely are labels dealt at random to agree in every group?
    rates = of_class.sum(axis=0) / n
    by_chance = np.log((rates[:, None] ** sizes[shared]).sum(axis=0)).sum()
    if by_chance < np.log(_ALPHA) and len(names) > len(classes):
        yield Finding("warning", "groups", f"the texts of a group all have one label, so nothing "
                      f"varies within it and the {n:,} texts are only {len(names):,} independent "
                      "examples")  # fmt: skip


def _classes(dataset: ConceptDataset) -> Iterator[Finding]:
    """Classes too small to be split into folds, or too many of them."""
    classes, y = np.unique(dataset.labels, return_inverse=True)
    n = len(dataset)
    if _are_scores(dataset):
        scores = "; if they are scores, probe them as numbers, `probe: {kind: ridge}`"
        hint = scores if classes.dtype.kind in "iu" else ""
        yield Finding("warning", "classes", f"{len(classes):,} distinct labels for {n:,} texts "
                      f"leave {n / len(classes):.1f} to each{hint}")  # fmt: skip
        return
    unit_of = group_indices(units(dataset.groups, dataset.texts), n)
    independent = (_table(unit_of, y) > 0).sum(axis=0)
    few = np.flatnonzero(independent < _FEW)
    if not len(few):
        return
    what = "texts" if dataset.groups is None else "groups"
    worst = few[independent[few].argmin()]
    name, count = _label(classes[worst]), independent[worst]
    if count == 1 and len(classes) == 2:
        one = f"{what[:-1]} that a split must keep whole"
        yield Finding("error", "classes", f"class {name} has one {one}, so no fold can both be "
                                          "trained and tested on it")  # fmt: skip
    else:
        others = f" ({len(few):,} classes have fewer than {_FEW})" if len(few) > 1 else ""
        yield Finding("warning", "classes", f"class {name} has {count} independent {what}{others}, "
                      "hardly enough for every fold to have some")  # fmt: skip


def _majority(dataset: ConceptDataset) -> Iterator[Finding]:
    label, count = Counter(dataset.labels.tolist()).most_common(1)[0]
    rate = count / len(dataset)
    message = f"the majority class is {_label(label)}, {percent(rate)} of the texts"
    if rate < _MAJORITY:
        yield Finding("note", "majority", message)
    else:
        yield Finding("warning", "majority", f"{message}: an accuracy of {rate:.3f} is what "
                      "never looking at the text reaches; read AUROC beside it")  # fmt: skip


def _length(dataset: ConceptDataset) -> Iterator[Finding]:
    """Does the number of characters rank the texts of one class above or below the others?"""
    lengths = np.array([len(text) for text in dataset.texts], dtype=float)
    classes, y = np.unique(dataset.labels, return_inverse=True)
    positive = [1] if len(classes) == 2 else np.flatnonzero(np.bincount(y) >= _FEW).tolist()
    aurocs = {c: _auroc(lengths[y == c], lengths[y != c])[0] for c in positive}
    c = max(positive, key=lambda c: abs(aurocs[c] - 0.5), default=0)
    if not positive or abs(aurocs[c] - 0.5) < _AUROC_OFF:
        return
    p = _Units.of(dataset.groups, y).p_value(lengths, c) * len(positive)
    if p < _ALPHA:
        yield Finding("warning", "length", "the number of characters alone tells class "
                      f"{_label(classes[c])} from the rest: AUROC {aurocs[c]:.2f} (p = {p:.1g}), "
                      f"{lengths[y == c].mean():.0f} characters on average against "
                      f"{lengths[y != c].mean():.0f}")  # fmt: skip


def _length_of_numbers(dataset: ConceptDataset) -> Iterator[Finding]:
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    lengths = np.array([len(text) for text in dataset.texts], dtype=float)
    group_of = group_indices(dataset.groups, len(dataset))
    means = [np.bincount(group_of, of) / np.bincount(group_of) for of in (lengths, dataset.labels)]
    if any(np.ptp(mean) == 0 for mean in means):
        return
    correlation = spearmanr(lengths, dataset.labels).statistic
    p = spearmanr(*means).pvalue
    if abs(correlation) >= _RANK_CORRELATION and p < _ALPHA:
        yield Finding("warning", "length", "the number of characters alone goes with the label: "
                      f"Spearman's correlation {correlation:.2f} (p = {p:.1g})")  # fmt: skip


@dataclass(frozen=True)
class _Words:
    """Which words each text has."""

    names: np.ndarray
    """[V]"""
    in_text: Any
    """0 or 1, scipy.sparse. [n, V]"""
    n_texts: np.ndarray
    """How many texts have it. [V]"""

    @classmethod
    def of(cls, texts: list[str]) -> _Words:
        from sklearn.feature_extraction.text import CountVectorizer

        vectorizer = CountVectorizer(binary=True, token_pattern=_WORD, dtype=np.int64)
        in_text = vectorizer.fit_transform(texts)
        n_texts = np.asarray(in_text.sum(axis=0)).ravel()
        return cls(vectorizer.get_feature_names_out(), in_text, n_texts)


def _single_words(dataset: ConceptDataset, words: _Words) -> Iterator[Finding]:
    """Words with which "has it, or not" gives the label away."""
    classes, y = np.unique(dataset.labels, return_inverse=True)
    n, one_hot = len(y), np.eye(len(classes), dtype=np.int64)[y]
    frequent = np.flatnonzero(words.n_texts >= max(5, n / 100))
    in_text = words.in_text[:, frequent]
    having = in_text.T @ one_hot
    lacking = one_hot.sum(axis=0) - having
    right = (having.max(axis=1) + lacking.max(axis=1)) / n
    majority = np.bincount(y).max() / n
    groups = _Units.of(dataset.groups, y)
    said: dict[bytes, str] = {}
    best = 0.0
    for word in np.argsort(-right, kind="stable"):
        if right[word] - majority < _WORD_GAIN or len(said) == 3:
            break
        has = in_text[:, [word]].toarray().ravel()
        # The rarer case is the telling one: "'not' is in 20 %", "'.' is missing from 3 %".
        counts, where = having[word], "is in"
        if counts.sum() > 2 * n / 3:
            counts, where = lacking[word], "is missing from"
        c = int((counts / counts.sum() - np.bincount(y) / n).argmax())
        p = groups.p_value(has, c) * len(frequent) * len(classes)
        if p < _ALPHA and has.tobytes() not in said:
            best = max(best, right[word])
            said[has.tobytes()] = (
                f"{str(words.names[frequent[word]])!r} {where} {percent(counts.sum() / n)} of the "
                f"texts, {percent(counts[c] / counts.sum())} of them labelled {_label(classes[c])}"
            )
    if said:
        yield Finding("warning", "words", f"a single word gives labels away: "
                      f"{'; '.join(said.values())}; the best one alone gets {percent(best)} "
                      f"right, the majority class {percent(majority)}")  # fmt: skip


def _pairs(dataset: ConceptDataset, words: _Words) -> Iterator[Finding]:
    """Do texts that share a subject have labels that are too even for chance?

    A subject is a rare word, or the same words in another order. Where labels were balanced
    within subjects and nothing keeps a subject in one fold, a probe that recognises the subject
    answers the label of the twin that it was trained on, the wrong one, and scores below chance.
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
    """Of the first subject, two texts with different labels. ``twins`` as in ``_remedy``."""
    subject = twins.indices[twins.indptr[:-1]].argmin()
    rows = twins.indices[twins.indptr[subject] : twins.indptr[subject + 1]]
    other = rows[dataset.labels[rows] != dataset.labels[rows[0]]][0]
    return f"{_quoted_text(dataset, rows[0])} and {_quoted_text(dataset, other)}"


def _remedy(dataset: ConceptDataset, twins: Any) -> str:
    """Which column would keep twins in one fold. ``twins`` is scipy.sparse [n, subjects]."""
    fitting = {}
    for column, values in dataset.fields.items():
        codes, distinct = values.astype(str).factorize()
        if _together(twins, codes).mean() > _TOGETHER and len(distinct) > 1:
            fitting[str(column)] = len(distinct)
    told = "a probe tested on a text was trained on its twin, and may score below chance"
    if not fitting:
        return f"give twins one group, or {told}"
    return f"use `group: {max(fitting, key=lambda column: fitting[column])}`, or {told}"


def _torn(subjects: Any, unit_of: np.ndarray, one_hot: np.ndarray) -> Any:
    """The subjects that splits tear apart, without the units that have them evenly by themselves.

    What a unit has evenly tells the rest of the subject nothing. -> [n, fewer subjects], 0 or 1
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
    """Which subjects have all their texts in one unit. -> [subjects] bool"""
    subjects = subjects.tocsc()
    if not subjects.shape[1]:
        return np.zeros(0, dtype=bool)
    of_text, first = unit_of[subjects.indices], subjects.indptr[:-1]
    together: np.ndarray = np.minimum.reduceat(of_text, first) == np.maximum.reduceat(
        of_text, first
    )
    return together


def _rare_words(words: _Words) -> Any:
    """Words that a few texts share, those of the same texts once. -> [n, subjects], 0 or 1"""
    rare = words.in_text.tocsc()[:, (words.n_texts > 1) & (words.n_texts <= _SMALL_GROUP)]
    keys = np.random.default_rng(0).integers(2**40, size=rare.shape[0])
    return rare[:, np.unique(rare.T @ keys, return_index=True)[1]]


def _reordered(words: _Words) -> Any:
    """Texts that have the same words. -> [n, subjects], 0 or 1"""
    from scipy.sparse import csc_array

    keys = words.in_text @ np.random.default_rng(0).integers(2**40, size=words.in_text.shape[1])
    _, subject_of, n_texts = np.unique(keys, return_inverse=True, return_counts=True)
    rows = np.arange(len(keys))
    subjects = csc_array((np.ones(len(keys), dtype=np.int64), (rows, subject_of)))
    return subjects[:, (n_texts > 1) & (n_texts <= _SMALL_GROUP)]


@dataclass(frozen=True)
class _Units:
    """What groups have of one class: the independent observations that a test may count."""

    of_row: np.ndarray
    """[n]"""
    class_of: np.ndarray
    """[units]"""

    @classmethod
    def of(cls, groups: np.ndarray | None, y: np.ndarray) -> _Units:
        """From the groups and the classes 0 … K-1 of the rows."""
        K = int(y.max()) + 1
        kept, of_row = np.unique(group_indices(groups, len(y)) * K + y, return_inverse=True)
        return cls(of_row, kept % K)

    def p_value(self, values: np.ndarray, c: int) -> float:
        """Mann and Whitney's: do the units' means differ between class ``c`` and the rest?"""
        means = np.bincount(self.of_row, values) / np.bincount(self.of_row)
        return _auroc(means[self.class_of == c], means[self.class_of != c])[1]


def _auroc(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """The chance that a positive one is above a negative one, ties counting half; its p-value."""
    from scipy.stats import mannwhitneyu

    statistic, p = mannwhitneyu(positive, negative, method="asymptotic")
    return float(statistic / (len(positive) * len(negative))), float(p)


def _table(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How often each row index goes with each column index. -> [rows, columns]"""
    table = np.zeros((rows.max() + 1, columns.max() + 1), dtype=int)
    np.add.at(table, (rows, columns), 1)
    return table


def _label(label: Any) -> str:
    """Strings in quotation marks, numbers bare."""
    return repr(label.item() if isinstance(label, np.generic) else label)


def _quoted_text(dataset: ConceptDataset, row: int) -> str:
    """A text without the template around it, which is the same for all."""
    places = dataset.spans.get("text")
    return _quoted(dataset.texts[row][slice(*places[row])] if places else dataset.texts[row])


def _quoted(text: object, width: int = 50) -> str:
    line = " ".join(str(text).split())
    return repr(line if len(line) <= width else f"{line[: width - 1]}…")


def percent(share: float) -> str:
    """``"73.6 %"``."""
    return f"{100 * share:.1f} %"
