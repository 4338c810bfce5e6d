"""Cross-validation folds that never separate a group."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from llmprobe.errors import UserError


def assign_folds(
    labels: np.ndarray,
    groups: np.ndarray | None,
    folds: int,
    seed: int = 0,
    where: str = "examples",
) -> np.ndarray:
    """The fold of each example: shuffled, stratified by label, whole groups. -> [n] int

    Raises
    ------
    UserError
        There are too few examples or groups for ``folds``, or a training set without one of the
        classes.
    """
    n = len(labels)
    classes, y, counts = np.unique(labels, return_inverse=True, return_counts=True)
    units = n if groups is None else len(np.unique(groups))
    kind = "examples" if groups is None else "groups"
    if units < folds:
        raise UserError(f"{where}: {units} {kind} are too few for {folds} folds")
    if counts.min() < folds:
        rare = classes[counts.argmin()]
        raise UserError(
            f"{where}: class {rare} has {counts.min()} examples, too few for {folds} folds"
        )
    fold_of = np.empty(n, dtype=int)
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    split = splitter(folds, shuffle=True, random_state=seed).split(y, y, groups)
    for fold, (train, test) in enumerate(split):
        fold_of[test] = fold
        absent = classes[np.bincount(y[train], minlength=len(classes)) == 0]
        if len(absent) or not len(test):
            problem = "one is empty"
            if len(absent):
                problem = f"class {absent[0]} is absent from a training set"
            raise UserError(f"{where}: {folds} folds of {units} {kind}: {problem}; use fewer folds")
    return fold_of
