"""Labels that by convention mean that there is none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

_WORDS = {"", "-", "?", "n/a", "na", "nan", "null", "none", "missing", "unknown", "unlabeled",
          "unlabelled", "no label", "not labeled", "not labelled"}  # fmt: skip


def without_label(labels: Iterable[Any]) -> np.ndarray:
    """Return which labels mean none: missing, -1, -100 (of tokens), or a word like "N/A". [n]"""
    return np.array([_is_none(label) for label in labels], dtype=bool)


def _is_none(label: Any) -> bool:
    if isinstance(label, str):
        word = " ".join(label.split()).casefold()
        return word in _WORDS or word in ("-1", "-1.0", "-100")
    return np.ndim(label) == 0 and bool(pd.isna(label) or label in (-1, -100))
