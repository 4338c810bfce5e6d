"""The length of an online code of labels (Voita & Titov 2020), with a probe and without one."""

from __future__ import annotations

import numpy as np

from llmprobe.probing.tasks import ProbingTasks


def code_lengths(losses: np.ndarray, tasks: ProbingTasks) -> np.ndarray:
    """Return the nats of each order's code, from the loss of its portions after the first. [orders]

    The number of the penalty and a uniform code of the first portion are added.
    """
    first = np.array([code.train[0].sum() for code in tasks.online])
    on_top = np.log(len(tasks.penalties)) + first * np.log(len(tasks.classes))
    lengths: np.ndarray = on_top + losses
    return lengths


def code_lengths_without_states(tasks: ProbingTasks) -> np.ndarray:
    """Return the nats of each order's code by an intercept alone. [orders]

    An unpenalised intercept gives each class its share of the labels seen so far. Portions, the
    uniform guess that is mixed in, and what is added are those of the probe's code.
    """
    losses = []
    for code in tasks.online:
        seen = np.stack([np.bincount(tasks.y[rows], minlength=len(tasks.classes))
                         for rows in code.train])  # fmt: skip
        shares = seen / seen.sum(axis=1, keepdims=True)
        encoded = code.scored_by >= 0
        doubt = np.asarray(code.doubt, float)[encoded]
        share = shares[code.scored_by[encoded], tasks.y[encoded]]
        losses.append(-np.log((1 - doubt) * share + doubt / len(tasks.classes)).sum())
    return code_lengths(np.array(losses), tasks)
