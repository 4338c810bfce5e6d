"""The split of Jin et al. (2024), for a comparison with the numbers that they published."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.from_config import without_leaks
from llmprobe.ground.errors import UserError


def split_of_jin2024(dataset: ConceptDataset) -> ConceptDataset:
    """Return a dataset without groups whose test set is 40 % of its rows, drawn at random.

    It is scikit-learn's ``train_test_split(rows, test_size=0.4, random_state=42)`` of the rows of
    class 0 followed by those of class 1, as in their released code. Rows outside the test set whose
    text is in it are left out.

    Raises
    ------
    UserError
        The dataset has a test set of its own.
    """
    if dataset.test is not None:
        raise UserError(f"dataset {dataset.name!r}: has a test set, and protocol jin2024 draws its "
                        "own; leave out one of the two")  # fmt: skip
    by_class = np.argsort(dataset.labels, kind="stable")
    drawn = np.random.RandomState(42).permutation(len(dataset))[: ceil(0.4 * len(dataset))]
    test = np.isin(np.arange(len(dataset)), by_class[drawn])
    return without_leaks(replace(dataset, groups=None, test=test))
