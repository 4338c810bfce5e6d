"""Directions of a layer's states along which a model can be changed, and such as say nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.probing.fit_many import Design
from llmprobe.probing.search import search
from llmprobe.probing.tasks import ProbingTasks

KINDS = ("logistic", "mean_difference")
"""Directions that have a null of their own: the same fitted to other labels, or drawn at random."""

MOST_STRETCHED = 2.0
"""The power of the eigenvalues beyond which all random directions would be near the largest."""


@dataclass(frozen=True)
class Directions:
    """K directions for the texts of one fold, which none of them was fitted on.

    First those of the labels (``KINDS``, then ``leace``), then, for each draw of the null, one of
    each of ``KINDS``.
    """

    acts: np.ndarray
    """Along which states are moved, towards the second class; of length 1, or 0 where the layer has
    none. [K, d]"""
    reads: np.ndarray
    """What says where a state stands along it: ``reads @ acts`` is 1. It is ``acts`` itself but for
    LEACE. [K, d]"""
    centre: np.ndarray
    """Where the midpoint between the means of the two classes stands. [K]"""
    spread: np.ndarray
    """The standard deviation of where states stand. [K]"""
    distance_of: np.ndarray
    """Which direction says how far a state is moved along each: it does itself, but for those of
    the null, which move it as far as the direction of the labels beside which they stand. [K]"""

    def places(self, X: np.ndarray) -> np.ndarray:
        """Return where states [m, d] stand along each direction, from the midpoint. -> [m, K]"""
        places: np.ndarray = X @ self.reads.T - self.centre
        return places


def fit_directions(X: np.ndarray, tasks: ProbingTasks, null: int, seed: int) -> list[Directions]:
    """Fit the directions of one layer, for the texts of each fold on those of the others.

    Half of the null are fitted to shuffled labels, by the penalties of the labels themselves, and
    on the texts of all folds: what is read of labels is nearly one direction in all folds, whose
    effects add up, and what is fitted to noise in each would be several. The other half are random:
    orthogonal to the direction beside which each stands, and such that the states vary along both
    alike as far as that can be.

    Parameters
    ----------
    X
        The states. [n, d]
    tasks
        Of two classes, with as many shuffled labellings as are to be fitted.
    null
        How many draws there are: of shuffled labels as many as ``tasks`` has, else random ones.
    seed
        Of the random ones, which are near each other in layers that are alike if it is the same.
    """
    fitted = min(len(tasks.shuffled), null)
    shuffled = np.reshape([task.targets[0] for task in tasks.shuffled[:fitted]], (fitted, len(X)))
    folds = int(tasks.fold_of[0].max()) + 1
    train = tasks.train[:folds]
    every = train.any(axis=0)
    logistic = _logistic(X, tasks, shuffled, train)
    X = X.astype(np.float64)
    n, d = X.shape
    centred = X - X.mean(axis=0)
    covariance = centred.T @ centred / n
    variances, axes = np.linalg.eigh(covariance)
    has = variances > 1e-10 * max(variances[-1], 1e-30)
    variances, axes = variances[has], axes[:, has]
    normal = np.random.default_rng(seed).standard_normal((null - fitted, d)) @ axes
    of_noise = [high - low for low, high in (_class_means(X[every], y) for y in shuffled)]
    null_acts = np.stack([logistic[folds:], np.reshape(of_noise, (fitted, d))], axis=1)
    null_acts = _unit(null_acts).reshape(-1, d)
    distance_of = np.array([0, 1, 2, *[0, 1] * null])
    of_folds = []
    for fold in range(folds):
        rows = train[fold]
        low, high = _class_means(X[rows], tasks.y[rows])
        own = np.stack([_unit(logistic[fold]), *[_unit(high - low)] * 2])  # [KINDS and LEACE, d]
        drawn = np.stack(
            [_of_like_variance(one @ axes, variances, normal) @ axes.T for one in own[:2]], axis=1
        )
        acts = np.concatenate([own, null_acts, drawn.reshape(-1, d)])
        reads = acts.copy()
        reads[2] = _leace(X[rows], high - low, acts[2])
        middle = np.concatenate([
            np.tile((low + high) / 2, (len(own), 1)), np.tile(X[rows].mean(axis=0), (2 * null, 1)),
        ])  # fmt: skip
        of_folds.append(
            Directions(
                acts.astype(np.float32),
                reads.astype(np.float32),
                (reads * middle).sum(axis=1).astype(np.float32),
                (X[rows] @ reads.T).std(axis=0).astype(np.float32),
                distance_of,
            )
        )
    return of_folds


def _logistic(
    X: np.ndarray, tasks: ProbingTasks, shuffled: np.ndarray, train: np.ndarray
) -> np.ndarray:
    """Return the directions of logistic probes, of each fold and each other labelling.

    The penalty of a fold is chosen inside its training rows; that of other labels, which are fitted
    on the training rows of all folds, is the middle one. -> [folds + shuffled, d]
    """
    design = Design(torch.as_tensor(X))
    kind = PROBE_KINDS["logistic"]
    folds, K = len(train), len(shuffled)
    if tasks.inner:
        chosen = search(design, kind, tasks.loss, tasks.inner[:folds], tasks.penalties).l2
    else:
        chosen = np.full(folds, tasks.penalties[0])
    labels = np.concatenate([np.tile(tasks.y, (folds, 1)), shuffled])
    rows = np.concatenate([train, np.tile(train.any(axis=0), (K, 1))])
    targets = torch.as_tensor(labels[:, None].astype(np.float32)).to(design.X.dtype)
    problems = kind.problems(design, tasks.loss, targets, torch.as_tensor(rows).to(design.X.dtype))
    penalties = np.append(chosen, np.full(K, np.quantile(chosen, 0.5, method="lower")))
    fits = problems.raw(problems.solve(torch.as_tensor(penalties)))
    coef: np.ndarray = np.asarray(fits.coef).reshape(X.shape[1], folds + K).T
    return coef


def _class_means(X: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of the rows of class 0 and of class 1. -> [d], [d]"""
    second = labels > 0.5
    return X[~second].mean(axis=0), X[second].mean(axis=0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [..., d] of length 1; where there is none, as in a constant layer, of 0."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-12, vectors / np.maximum(length, 1e-12), 0.0)


def _leace(X: np.ndarray, difference: np.ndarray, acts: np.ndarray) -> np.ndarray:
    """Return what reads the place of a state that LEACE sets to the middle. [d]

    For two classes the eraser is ``x - S_xz (S_xz' S_xx⁻¹ S_xz)⁻¹ S_xz' S_xx⁻¹ (x - mean)``
    (Belrose et al. 2023, theorem 4.3, of rank one): it moves along the difference of the means, by
    what the linear discriminant reads. The covariance is shrunk, as theirs is (Chen et al. 2010).
    """
    if not difference.any():
        return acts
    from sklearn.covariance import oas

    read = np.linalg.solve(oas(X)[0], difference)
    unit: np.ndarray = read / (read @ acts)
    return unit


def _of_like_variance(own: np.ndarray, variances: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return random directions along which the states vary as along one, and orthogonal to it.

    A normal vector's entries are stretched by a power of the eigenvalues: from the least variance
    to the largest as the power rises, so one power gives the wanted one, or comes nearest to it.

    Parameters
    ----------
    own
        The direction, in the basis of the eigenvectors of the states' covariance. [r]
    variances
        The eigenvalues. [r]
    normal
        Normal random numbers. [draws, r]

    Returns
    -------
    Directions of length 1. [draws, r]
    """
    if not own.any():
        return np.zeros_like(normal)
    own = own / np.linalg.norm(own)
    wanted, logs = own**2 @ variances, np.log(variances)
    low, high = np.full(len(normal), -MOST_STRETCHED), np.full(len(normal), MOST_STRETCHED)

    def stretched(power: np.ndarray) -> np.ndarray:
        exponents = power[:, None] / 2 * logs
        vectors = _unit(normal * np.exp(exponents - exponents.max(axis=1, keepdims=True)))
        return _unit(vectors - np.outer(vectors @ own, own))

    for _ in range(40):
        middle = (low + high) / 2
        less = (stretched(middle) ** 2) @ variances < wanted
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return stretched((low + high) / 2)
