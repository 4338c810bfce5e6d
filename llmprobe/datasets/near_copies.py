"""Texts that are nearly the same, and that a split may set apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.findings import ALPHA, Finding, percent, quoted_text
from llmprobe.datasets.groups import group_indices, plain

_WORD = re.compile(r"\w+|[^\w\s]")
_WORDS = 3
"""Words and marks of a shingle (Broder 1997)."""
_LONGEST = 60
"""Shingles are made of at most this many words of a text."""
_COMMON = 20
"""A shingle in more texts than this is a phrase of the language or of a template."""
_ALIKE = 0.5
"""Near copies share at least this part of the shingles of both; phrases do not count as shared."""
_LEAST = 3
_MANY = 0.01


def near_copies(dataset: ConceptDataset) -> Iterator[Finding]:
    """Yield a finding if texts of different units share half of their shingles.

    It is a note if they are few, or if their labels agree as often as those of any two texts: then
    one tells nothing about the other.
    """
    # A sentence with several labelled words counts once.
    rows = np.unique(np.array(dataset.texts, dtype=object), return_index=True)[1]
    rows.sort()
    units = group_indices(dataset.units, len(dataset))[rows]
    pairs = rows[_pairs(tuple(_without_template(dataset, row) for row in rows), tuple(units))]
    if not len(pairs):
        return
    n, texts = len(rows), len(np.unique(pairs))
    one, other = pairs[0]
    message = (
        f"{texts:,} of {n:,} texts are nearly copies of another that a split may set apart, such "
        f"as {quoted_text(dataset, one)} and {quoted_text(dataset, other)}"
    )
    if dataset.labels.dtype.kind == "f" or dataset.words is not None:
        yield Finding("warning" if texts >= _MANY * n else "note", "copies", f"{message}; give "
                      "them one group")  # fmt: skip
        return
    same = dataset.labels[pairs[:, 0]] == dataset.labels[pairs[:, 1]]
    told = texts >= _MANY * n and (same.all() or _unlike_chance(dataset, same))
    yield Finding("warning" if told else "note", "copies", f"{message}; {percent(same.mean())} of "
                  "such pairs have one label; give them one group")  # fmt: skip


def _unlike_chance(dataset: ConceptDataset, same: np.ndarray) -> bool:
    """Whether labels of pairs agree more or less often than those of any two texts."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    shares = np.unique(dataset.labels, return_counts=True)[1] / len(dataset)
    return bool(binomtest(int(same.sum()), len(same), float((shares**2).sum())).pvalue < ALPHA)


@lru_cache(maxsize=1)
def _pairs(texts: tuple[str, ...], units: tuple[int, ...]) -> np.ndarray:
    """Return pairs of texts of different units that are nearly copies. [pairs, 2]

    Cached for the concepts of one dataset, which have the same texts.
    """
    from scipy.sparse import csr_array, triu  # type: ignore[import-untyped]

    of_text = [_shingles(text) for text in texts]
    sizes = np.array([len(shingles) for shingles in of_text])
    keys = np.array([hash(shingle) for shingles in of_text for shingle in shingles], dtype=np.int64)
    row = np.repeat(np.arange(len(texts)), sizes)
    _, shingle, n_texts = np.unique(keys, return_inverse=True, return_counts=True)
    rare = ((n_texts > 1) & (n_texts <= _COMMON))[shingle]
    shape = len(texts), len(n_texts)
    has = csr_array((np.ones(rare.sum(), dtype=np.int32), (row[rare], shingle[rare])), shape)
    shared = triu(has @ has.T, k=1).tocoo()
    one, other = shared.coords
    unit_of = np.array(units)
    alike = shared.data >= np.maximum(_LEAST, _ALIKE * (sizes[one] + sizes[other] - shared.data))
    alike &= unit_of[one] != unit_of[other]
    return np.column_stack([one[alike], other[alike]])


def _without_template(dataset: ConceptDataset, row: int) -> str:
    start, stop = dataset.spans["text"][row] if "text" in dataset.spans else (0, None)
    return dataset.texts[row][start:stop]


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(plain(text))[:_LONGEST]
    return set(zip(*(words[skipped:] for skipped in range(_WORDS)), strict=False))
