"""Texts that are nearly the same, and that a split may set apart."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.findings import ALPHA, Finding, percent, quoted_text
from llmprobe.datasets.groups import group_indices, plain

_WORD = re.compile(r"\w+|[^\w\s]")
_WORDS = 3
"""Words and marks of a shingle (Broder 1997)."""
_LONGEST = 60
"""Words of a text, at most, of which shingles are made."""
_COMMON = 20
"""Texts, at most, that share a shingle which is not a phrase of the language or of a template."""
_ALIKE = 0.5
"""Of the shingles that two texts have, those that both have and few others."""
_LEAST = 3
_MANY = 0.01


def near_copies(dataset: ConceptDataset) -> Iterator[Finding]:
    """Yield a finding of texts that share half of their shingles with few others, and no unit.

    A note where they are few, or where their labels agree as labels of any two texts do: then one
    tells nothing of the other.
    """
    pairs = _pairs(dataset)
    if not len(pairs):
        return
    n, texts = len(dataset), len(np.unique(pairs))
    one, other = pairs[0]
    message = (
        f"{texts:,} of {n:,} texts are nearly copies of another that a split may set apart, such "
        f"as {quoted_text(dataset, one)} and {quoted_text(dataset, other)}"
    )
    if dataset.labels.dtype.kind == "f":
        yield Finding("warning" if texts >= _MANY * n else "note", "copies", f"{message}; give "
                      "them one group")  # fmt: skip
        return
    same = dataset.labels[pairs[:, 0]] == dataset.labels[pairs[:, 1]]
    told = texts >= _MANY * n and (same.all() or _unlike_chance(dataset, same))
    yield Finding("warning" if told else "note", "copies", f"{message}; {percent(same.mean())} of "
                  "such pairs have one label; give them one group")  # fmt: skip


def _unlike_chance(dataset: ConceptDataset, same: np.ndarray) -> bool:
    """Whether labels of pairs agree more, or less, often than those of any two texts."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    shares = np.unique(dataset.labels, return_counts=True)[1] / len(dataset)
    return bool(binomtest(int(same.sum()), len(same), float((shares**2).sum())).pvalue < ALPHA)


def _pairs(dataset: ConceptDataset) -> np.ndarray:
    """Return pairs of rows of different units that are nearly copies. [pairs, 2]"""
    from scipy.sparse import csr_array, triu  # type: ignore[import-untyped]

    of_text = [_shingles(dataset, row) for row in range(len(dataset))]
    sizes = np.array([len(shingles) for shingles in of_text])
    keys = np.array([hash(shingle) for shingles in of_text for shingle in shingles], dtype=np.int64)
    row = np.repeat(np.arange(len(dataset)), sizes)
    _, shingle, n_texts = np.unique(keys, return_inverse=True, return_counts=True)
    rare = ((n_texts > 1) & (n_texts <= _COMMON))[shingle]
    shape = len(dataset), len(n_texts)
    has = csr_array((np.ones(rare.sum(), dtype=np.int32), (row[rare], shingle[rare])), shape)
    shared = triu(has @ has.T, k=1).tocoo()
    one, other = shared.coords
    unit_of = group_indices(dataset.units, len(dataset))
    alike = shared.data >= np.maximum(_LEAST, _ALIKE * (sizes[one] + sizes[other] - shared.data))
    alike &= unit_of[one] != unit_of[other]
    return np.column_stack([one[alike], other[alike]])


def _shingles(dataset: ConceptDataset, row: int) -> set[tuple[str, ...]]:
    """Return the shingles of a text without its template."""
    start, stop = dataset.spans["text"][row] if "text" in dataset.spans else (0, None)
    words = _WORD.findall(plain(dataset.texts[row][start:stop]))[:_LONGEST]
    return set(zip(*(words[skipped:] for skipped in range(_WORDS)), strict=False))
