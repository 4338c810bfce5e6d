"""What is wrong or misleading in a dataset, found before any model is loaded.

A probe's score is read as "the model knows". Each check looks for another reason to score well or
badly: one class is most of the texts, the length or one word gives the label away, twins with
opposite labels stand on both sides of a split.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.findings import (
    ALPHA,
    LEVELS,
    Finding,
    Level,
    Units,
    auroc,
    contingency,
    label_text,
    percent,
    quoted,
    quoted_text,
)
from llmprobe.datasets.groups import group_indices
from llmprobe.datasets.near_copies import near_copies
from llmprobe.datasets.shortcut_words import Words, pairs, single_words
from llmprobe.datasets.unlabelled import without_label
from llmprobe.ground.errors import UserError
from llmprobe.ground.text import listed, shortened

log = logging.getLogger(__name__)

_MAJORITY = 0.7
_FEW = 10
"""With fewer independent examples of a class, its five folds say little."""
_TEXTS_PER_LABEL = 5
_MANY_NUMBERS = 20
"""More distinct whole numbers than this are scores rather than classes."""
_AUROC_OFF = 0.1
_RANK_CORRELATION = 0.2


def check(dataset: ConceptDataset) -> list[Finding]:
    """Return everything that the checks find, errors first; a second for 16,000 short texts.

    A finding about several concepts is reported for the first, and names the others. Random labels
    give a warning in one or two of a thousand datasets.
    """
    found: dict[tuple[Level, str], dict[str, str]] = {}
    concepts = dataset.by_concept()
    for concept in concepts:
        for finding in _check(concept):
            of_kind = found.setdefault((finding.level, finding.check), {})
            of_kind[concept.name.removeprefix(f"{dataset.name}:")] = finding.message
    findings = [
        Finding(*kind, _of_concepts(messages, len(concepts))) for kind, messages in found.items()
    ]
    left_out = [name for name, labels in dataset.concepts.items() if len(np.unique(labels)) < 2]
    if left_out:
        findings.append(Finding("warning", "concepts", "left out, since their labels are all the "
                                f"same: {', '.join(shortened(left_out))}"))  # fmt: skip
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def _of_concepts(messages: dict[str, str], n: int) -> str:
    """Merge the messages of one finding, by concept, into one; n is the number of all concepts."""
    (first, message), *others = messages.items()
    if len({*messages.values()}) == 1 and len(messages) == n:
        return message
    also = f" (and {', '.join(shortened([name for name, _ in others], 5))})" if others else ""
    return f"of {quoted(first)}{also}: {message}"


def _check(dataset: ConceptDataset) -> list[Finding]:
    """Return the findings about one concept."""
    numbers = dataset.labels.dtype.kind == "f"
    findings = [*_joined_lines(dataset), *_repeats(dataset), *_groups(dataset)]
    if dataset.groups is None and (column := one_label_column(dataset)):
        findings.append(Finding("warning", "groups", f"texts with one {quoted(column)} all have "
                                "one label, and no group keeps them in one fold, so a probe that "
                                "recognises it is right without the concept; use "
                                f"`group: {column}`"))  # fmt: skip
    if not numbers:
        findings += [*_unlabelled(dataset), *_classes(dataset), *_majority(dataset)]
    distinct = np.arange(len(dataset))
    if dataset.words is None:  # Otherwise words are labelled, many of them in one text.
        # Copies of a text are not independent evidence.
        texts = np.array(dataset.plain_texts, dtype=object)
        distinct = np.sort(np.unique(texts, return_index=True)[1])
    if len(np.unique(dataset.labels[distinct])) > 1:
        findings += _surface(dataset.take(distinct), numbers)
    return findings


def _surface(dataset: ConceptDataset, numbers: bool) -> Iterator[Finding]:
    """Yield what the length and the words of distinct texts give away."""
    yield from _length_of_numbers(dataset) if numbers else _length(dataset)
    twins: list[Finding] = []
    if not numbers and not _are_scores(dataset):
        words = Words.of(tuple(dataset.surface))
        yield from single_words(dataset, words)
        twins = list(pairs(dataset, words)) if dataset.words is None else []
    # Twins with opposite labels are near copies too, but their own finding says more.
    yield from twins or near_copies(dataset)


def log_findings(dataset: ConceptDataset, refuse: bool = False) -> None:
    """Log what the checks find in a dataset.

    Parameters
    ----------
    refuse
        Raise ``UserError`` for a finding that forbids probing.
    """
    for finding in check(dataset):
        if finding.level == "error" and refuse:
            raise UserError(f"dataset {dataset.name!r}: {finding.message}")
        if finding.level != "note":
            log.warning("%s: %s", dataset.name, finding.message)


def _are_scores(dataset: ConceptDataset) -> bool:
    """Whether there are too many distinct labels for them to be classes."""
    return len(dataset.classes) > max(2, len(dataset) / _TEXTS_PER_LABEL)


def _joined_lines(dataset: ConceptDataset) -> Iterator[Finding]:
    """Yield a finding if texts contain lines of a table, which end or begin with a label."""
    classes = dataset.classes
    label = r"-?\d+(?:\.\d+)?"
    if classes.dtype.kind not in "iuf":
        label = "|".join(re.escape(str(name)) for name in classes[:100])
    row = re.compile(rf"[\t,;|](?:{label})\r?\n|\n(?:{label})[\t,;|]\S")
    rows = [i for i, text in enumerate(dataset.texts) if "\n" in text and row.search(text)]
    if rows:
        yield Finding("warning", "lines", f"{len(rows):,} of {len(dataset):,} texts hold line "
                      "breaks, delimiters and labels, as if lines of a table were joined: "
                      f"{quoted_text(dataset, rows[0])}; if quotation marks did that, say "
                      "`quoting: none`")  # fmt: skip


def _repeats(dataset: ConceptDataset) -> Iterator[Finding]:
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(dataset.plain_texts):
        rows_of.setdefault(text, []).append(row)
    n, repeats = len(dataset), len(dataset) - len(rows_of)
    if not repeats or (dataset.words is not None and len(rows_of) > 1):
        return
    rows = max(rows_of.values(), key=len)
    example = quoted_text(dataset, rows[0])
    if len(rows_of) == 1:
        yield Finding("error", "repeats", f"all {n:,} texts are the same: {example}")
        return
    message = f"{repeats:,} of {n:,} texts repeat another: {example} occurs {len(rows)} times"
    labels = dataset.labels
    repeated = [rows for rows in rows_of.values() if len(rows) > 1]
    contradictory = [rows for rows in repeated if (labels[rows] != labels[rows[0]]).any()]
    if contradictory:
        rows = contradictory[0]
        one, other = map(label_text, np.unique(labels[rows])[:2])
        message += (
            f", and {quoted_text(dataset, rows[0])} is labelled {one} and {other} "
            f"(distinct texts with more than one label: {len(contradictory):,})"
        )
    level: Level = "warning" if contradictory or repeats >= n / 100 else "note"
    yield Finding(level, "repeats", f"{message}; copies stay in one fold and count as one")


def one_label_column(dataset: ConceptDataset) -> str:
    """Return a column whose values occur in the texts and have one label each, or "".

    A column counts only if random labels would hardly ever do that.
    """
    if dataset.labels.dtype.kind == "f":
        return ""
    y = np.unique(dataset.labels, return_inverse=True)[1]
    rates = np.bincount(y) / len(y)
    for column, values in dataset.fields.items():
        names = values.astype(str)
        if not all(name in text for name, text in zip(names, dataset.texts, strict=True)):
            continue
        codes, distinct = names.factorize()
        of_class = contingency(codes, y)
        sizes = of_class.sum(axis=1)
        shared = sizes > 1
        if len(distinct) < _FEW or sizes[shared].sum() < len(y) / 2:
            continue
        by_chance = np.log((rates[:, None] ** sizes[shared]).sum(axis=0)).sum()
        if (of_class[shared].max(axis=1) == sizes[shared]).all() and by_chance < np.log(ALPHA):
            return str(column)
    return ""


def _groups(dataset: ConceptDataset) -> Iterator[Finding]:
    if dataset.groups is None:
        return
    n = len(dataset)
    names, group_of, sizes = np.unique(dataset.groups, return_inverse=True, return_counts=True)
    if len(names) == 1:
        yield Finding("error", "groups", f"all {n:,} texts are in one group, {quoted(names[0])}, "
                                         "so no split can keep it whole")  # fmt: skip
        return
    if len(names) == n:
        yield Finding("note", "groups", f"each of the {n:,} groups is one text, which is the same "
                                        "as no groups")  # fmt: skip
        return
    if sizes.max() > n / 2:
        yield Finding("warning", "groups", f"group {quoted(names[sizes.argmax()])} has "
                      f"{percent(sizes.max() / n)} of the texts, so the fold that tests it "
                      "is trained on the few others")  # fmt: skip
    if dataset.labels.dtype.kind == "f" or _are_scores(dataset):
        return
    classes, y = np.unique(dataset.labels, return_inverse=True)
    of_class = contingency(group_of, y)
    shared = sizes > 1
    if sizes[shared].sum() < n / 2 or (of_class[shared].max(axis=1) < sizes[shared]).any():
        return
    # How likely are labels dealt at random to agree in every group?
    rates = of_class.sum(axis=0) / n
    by_chance = np.log((rates[:, None] ** sizes[shared]).sum(axis=0)).sum()
    if by_chance < np.log(ALPHA) and len(names) > len(classes):
        yield Finding("warning", "groups", f"the texts of a group all have one label, so nothing "
                      f"varies within it and the {n:,} texts are only {len(names):,} independent "
                      "examples")  # fmt: skip


def _classes(dataset: ConceptDataset) -> Iterator[Finding]:
    """Yield a finding if classes are too small to be split into folds, or too many."""
    classes, y = np.unique(dataset.labels, return_inverse=True)
    n = len(dataset)
    if _are_scores(dataset):
        scores = "; if they are scores, probe them as numbers, `probe: {kind: ridge}`"
        hint = scores if classes.dtype.kind in "iu" else ""
        yield Finding("warning", "classes", f"{len(classes):,} distinct labels for {n:,} texts "
                      f"leave {n / len(classes):.1f} to each{hint}")  # fmt: skip
        return
    if classes.dtype.kind in "iu" and len(classes) > max(_MANY_NUMBERS, n / 10):
        yield Finding("warning", "classes", f"{len(classes):,} distinct whole numbers as labels of "
                      f"{n:,} texts; if they are scores, probe them as numbers, "
                      "`probe: {kind: ridge}`")  # fmt: skip
        return
    unit_of = group_indices(dataset.units, n)
    independent = (contingency(unit_of, y) > 0).sum(axis=0)
    few = np.flatnonzero(independent < _FEW)
    if not len(few):
        return
    what = "texts" if dataset.groups is None else "groups"
    worst = few[independent[few].argmin()]
    name, count = label_text(classes[worst]), independent[worst]
    if count == 1 and len(classes) == 2:
        one = f"{what[:-1]} that a split must keep whole"
        yield Finding("error", "classes", f"class {name} has one {one}, so no fold can both be "
                                          "trained and tested on it")  # fmt: skip
    else:
        others = f" ({len(few):,} classes have fewer than {_FEW})" if len(few) > 1 else ""
        yield Finding("warning", "classes", f"class {name} has {count} independent {what}{others}, "
                      "hardly enough for every fold to have some")  # fmt: skip


def _unlabelled(dataset: ConceptDataset) -> Iterator[Finding]:
    """Yield a finding if some labels by convention mean that there is none.

    With only one other label, as in -1 and 1, both are taken for classes.
    """
    classes = dataset.classes
    names = classes[without_label(classes)]
    if len(names) and len(classes) - len(names) > 1:
        n = int(np.isin(dataset.labels, names).sum())
        yield Finding("warning", "unlabelled", f"{n:,} of {len(dataset):,} texts are labelled "
                      f"{listed([*map(label_text, names)])}, which by convention means that they "
                      "have no label; if so, say `drop: {unlabelled: true}`")  # fmt: skip


def _majority(dataset: ConceptDataset) -> Iterator[Finding]:
    label, count = Counter(dataset.labels.tolist()).most_common(1)[0]
    rate = count / len(dataset)
    message = f"the majority class is {label_text(label)}, {percent(rate)} of the texts"
    if rate < _MAJORITY:
        yield Finding("note", "majority", message)
    else:
        yield Finding("warning", "majority", f"{message}: an accuracy of {rate:.3f} needs no "
                      "look at the text; read AUROC beside it")  # fmt: skip


def _length(dataset: ConceptDataset) -> Iterator[Finding]:
    """Yield a finding if the number of characters alone tells one class from the others."""
    lengths = np.array([len(text) for text in dataset.surface], dtype=float)
    classes, y = np.unique(dataset.labels, return_inverse=True)
    positive = [1] if len(classes) == 2 else np.flatnonzero(np.bincount(y) >= _FEW).tolist()
    aurocs = {c: auroc(lengths[y == c], lengths[y != c])[0] for c in positive}
    c = max(positive, key=lambda c: abs(aurocs[c] - 0.5), default=0)
    if not positive or abs(aurocs[c] - 0.5) < _AUROC_OFF:
        return
    p = Units.of(dataset.groups, y).p_value(lengths, c) * len(positive)
    if p < ALPHA:
        yield Finding("warning", "length", "the number of characters alone tells class "
                      f"{label_text(classes[c])} from the rest: AUROC {aurocs[c]:.2f} "
                      f"(p = {p:.1g}), "
                      f"{lengths[y == c].mean():.0f} characters on average against "
                      f"{lengths[y != c].mean():.0f}")  # fmt: skip


def _length_of_numbers(dataset: ConceptDataset) -> Iterator[Finding]:
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    lengths = np.array([len(text) for text in dataset.surface], dtype=float)
    group_of = group_indices(dataset.groups, len(dataset))
    means = [np.bincount(group_of, of) / np.bincount(group_of) for of in (lengths, dataset.labels)]
    if any(np.ptp(mean) == 0 for mean in means):
        return
    correlation = spearmanr(lengths, dataset.labels).statistic
    p = spearmanr(*means).pvalue
    if abs(correlation) >= _RANK_CORRELATION and p < ALPHA:
        yield Finding("warning", "length", "the number of characters alone goes with the label: "
                      f"Spearman's correlation {correlation:.2f} (p = {p:.1g})")  # fmt: skip
