"""The sets of a transfer: datasets, the values of a field, all values but one, or masked texts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.errors import UserError
from llmprobe.probing.workers import States

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TransferSet:
    """Examples that probes are fitted on, or scored on: some rows of a dataset's states."""

    name: str
    """What tables call it."""
    states: States
    """The hidden states of the whole dataset; sets of one dataset share the object."""
    dataset: ConceptDataset
    """The whole dataset."""
    rows: np.ndarray
    """Which of its examples the set has. [n] int"""
    leaves_out: TransferSet | None = None
    """For a set of all values of a field but one, the set of that value; its probes are scored on
    nothing else."""
    masked: TransferSet | None = None
    """For a set of masked texts, the set of the same texts unmasked; no other probes score it."""
    field: str = ""
    """The field that is masked in its texts."""

    @property
    def original(self) -> TransferSet:
        """Return the set with unmasked texts, which determines units and folds."""
        return self.masked or self

    @property
    def fitted_on(self) -> str:
        """Return how much of its dataset it is: ``dataset``, ``part``, or ``all but one`` value."""
        if self.leaves_out is not None:
            return "all but one"
        return "dataset" if len(self.rows) == len(self.dataset) else "part"

    @property
    def labels(self) -> np.ndarray:
        """Return the labels of the examples of the set. [n]"""
        labels: np.ndarray = self.dataset.labels[self.rows]
        return labels


def sets_of(
    dataset: ConceptDataset,
    states: States,
    by: str | None = None,
    prefix: str = "",
    leave_one_out: bool = False,
) -> list[TransferSet]:
    """Return a dataset as one set, or as one for each value of a field, called ``prefix`` + value.

    Values whose rows have fewer than two classes are left out.

    Parameters
    ----------
    leave_one_out
        Whether to add a set ``all but VALUE`` for each value, if there are three or more. (With
        two, it would be the set of the other value.)

    Raises
    ------
    UserError
        The dataset has no such field.
    """
    if by is None:
        return [TransferSet(dataset.name, states, dataset, np.arange(len(dataset)))]
    if by not in dataset.fields:
        known = ", ".join(map(str, dataset.fields.columns)) or "none"
        raise UserError(f"dataset {dataset.name!r}: transfer: no field {by!r}; its fields: {known}")
    values = dataset.fields[by]
    sets = {}
    for value in pd.unique(values.dropna()):
        rows = np.flatnonzero(values == value)
        if len(np.unique(dataset.labels[rows])) > 1:
            sets[value] = TransferSet(f"{prefix}{value}", states, dataset, rows)
        else:
            log.warning(
                "transfer: %s: %s %r is left out: all its labels are the same",
                dataset.name, by, str(value),
            )  # fmt: skip
    rest = []
    if leave_one_out and len(sets) > 2:
        for value, left_out in sets.items():
            others = np.sort(np.concatenate([o.rows for o in sets.values() if o is not left_out]))
            name = f"{prefix}all but {value}"
            rest.append(TransferSet(name, states, dataset, others, leaves_out=left_out))
    return [*sets.values(), *rest]


Masked = tuple[str, ConceptDataset, States]
"""A field, the dataset with that field masked in all texts, and the states of these texts."""


def sets_of_all(
    datasets: Sequence[tuple[ConceptDataset, States]],
    by: str | None = None,
    leave_one_out: bool = False,
    masked: Mapping[str, Sequence[Masked]] | None = None,
) -> list[TransferSet]:
    """Return datasets as sets; those that have the field ``by``, as a set for each of its values.

    Sets have the names of their datasets or values, or DATASET:VALUE where several datasets have
    the field.

    Parameters
    ----------
    leave_one_out
        Whether to add sets of all values but one.
    masked
        By the name of a dataset, its texts with some fields masked.

    Raises
    ------
    UserError
        No dataset has such a field.
    """
    having = [dataset for dataset, _ in datasets if by in dataset.fields]
    if by is not None and not having:
        sets_of(*datasets[0], by)
    sets = []
    for dataset, states in datasets:
        prefix = f"{dataset.name}:" if len(having) > 1 else ""
        field = by if by in dataset.fields else None
        own = sets_of(dataset, states, field, prefix, leave_one_out)
        sets += own
        whole = own[0] if field is None else sets_of(dataset, states)[0]
        sets += [
            TransferSet(texts.name, of_texts, texts, whole.rows, masked=whole, field=name)
            for name, texts, of_texts in (masked or {}).get(dataset.name, ())
        ]
    return sets
