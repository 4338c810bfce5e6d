"""Directions along which a layer's states are changed, and null directions to compare them with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.probing.design import Design
from llmprobe.probing.search import search
from llmprobe.probing.tasks import ProbingTasks, targets_of

KINDS = ("logistic", "mean_difference")
"""Kinds of directions with a null: directions fitted to shuffled labels, or drawn at random."""

FITTED = (*KINDS, "leace")
"""All kinds of directions that are fitted to the labels."""

MOST_STRETCHED = 2.0
"""The largest power of the eigenvalues by which random directions are stretched. Beyond it, all
would be near the direction of largest variance."""


@dataclass(frozen=True)
class Directions:
    """K directions from one class to another.

    First those that are fitted to the labels (``FITTED``), then, for each draw of the null, one for
    each of ``KINDS``.
    """

    acts: np.ndarray
    """Along which states are moved, towards the second class; of length 1, or 0 where the layer has
    no such direction. [K, d]"""
    reads: np.ndarray
    """The vectors whose products with a state give its place along each direction; ``reads @ acts``
    is 1. Except for LEACE they are ``acts``. [K, d]"""
    centre: np.ndarray
    """The place of the midpoint between the means of the two classes; for the null, of the mean of
    all states. [K]"""
    spread: np.ndarray
    """The standard deviation of the places of states. [K]"""
    distance_of: np.ndarray
    """For each direction, the index of the one that sets how far a state is moved: its own, or for
    the null that of the fitted direction it is compared with. [K]"""

    def places(self, X: np.ndarray) -> np.ndarray:
        """Return the places of states [m, d] along each direction, from ``centre``. -> [m, K]"""
        places: np.ndarray = X @ self.reads.T - self.centre
        return places


@dataclass(frozen=True)
class ClassVectors:
    """K sets of a vector for each class, for the texts of one fold.

    None was fitted on these texts. The direction from one class to another is the difference of
    their two vectors.
    """

    acts: np.ndarray
    """The vectors. [K, C, d]"""
    discriminants: np.ndarray
    """The vectors with which LEACE reads. [C, d]"""
    means: np.ndarray
    """The mean of the states of each class. [C, d]"""
    mean: np.ndarray
    """The mean of all states. [d]"""
    covariances: np.ndarray
    """The covariances of the states' products with the vectors of each set. [K, C, C]"""
    distance_of: np.ndarray
    """As in ``Directions``. [K]"""

    def between(self, first: int, second: int) -> Directions:
        """Return the directions that lead from one class to another."""
        difference = self.acts[:, second] - self.acts[:, first]
        acts, n_own, leace = _unit(difference), len(FITTED), FITTED.index("leace")
        difference[leace] = self.discriminants[second] - self.discriminants[first]
        per_step = (difference * acts).sum(axis=1)
        per_step = np.where(per_step > 1e-12, per_step, np.inf)
        reads = difference / per_step[:, None]
        centre = reads @ self.mean
        centre[:n_own] = reads[:n_own] @ ((self.means[first] + self.means[second]) / 2)
        of = self.covariances
        variance = of[:, first, first] + of[:, second, second] - 2 * of[:, first, second]
        spread = np.sqrt(np.maximum(variance, 0)) / per_step
        return Directions(
            acts, reads.astype(np.float32), centre.astype(np.float32), spread.astype(np.float32),
            self.distance_of,
        )  # fmt: skip


def fit_directions(X: np.ndarray, tasks: ProbingTasks, null: int, seed: int) -> list[ClassVectors]:
    """Fit the directions of one layer: for the texts of each fold, on the texts of the others.

    A part of the null is fitted to shuffled labels, at a penalty of the labels themselves, and on
    the texts of all folds. (A direction of the labels is nearly the same in all folds, so its
    effects add up; noise would give another direction in each.) The rest is random: orthogonal to
    the fitted directions, with the same variance of the states along it as far as possible. For
    several classes, random vectors relate to each other as the fitted ones do.

    Parameters
    ----------
    X
        The states. [n, d]
    tasks
        Of two classes or more, with as many shuffled labellings as are to be fitted.
    null
        The number of draws of the null: first one for each shuffled labelling, then random ones.
    seed
        The seed of the random draws. With the same seed, similar layers get similar draws.
    """
    fitted, C = min(len(tasks.shuffled), null), len(tasks.classes)
    shuffled = np.reshape(
        [_labels_of(task.targets) for task in tasks.shuffled[:fitted]], (fitted, len(X))
    )
    folds = int(tasks.fold_of[0].max()) + 1
    train = tasks.train[:folds]
    every = train.any(axis=0)
    logistic = _logistic(X, tasks, shuffled, train)
    X = X.astype(np.float64)
    n, d = X.shape
    centred = X - X.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / n)
    has = variances > 1e-10 * max(variances[-1], 1e-30)
    variances, axes = variances[has], axes[:, has]
    normal = np.random.default_rng(seed).standard_normal((null - fitted, C - 1, d)) @ axes
    of_noise = np.reshape([_class_means(X[every], y[every], C) for y in shuffled], (fitted, C, d))
    of_null = _scaled(np.stack([logistic[folds:], of_noise], axis=1))
    distance_of = np.array([*range(len(FITTED)), *[*range(len(KINDS))] * null])
    of_folds = []
    for fold in range(folds):
        rows = train[fold]
        means = _class_means(X[rows], tasks.y[rows], C)
        own = _scaled(np.stack([logistic[fold], means, means]))  # [FITTED, C, d]
        drawn = np.stack(
            [_alike(one @ axes, variances, normal) @ axes.T for one in own[: len(KINDS)]], axis=1
        )
        acts = np.concatenate([own, of_null.reshape(-1, C, d), drawn.reshape(-1, C, d)])
        discriminants = _discriminants(X[rows], own[FITTED.index("leace")])
        reads, mean = acts.copy(), X[rows].mean(axis=0)
        reads[FITTED.index("leace")] = discriminants
        places = ((X[rows] - mean) @ reads.reshape(-1, d).T).T.reshape(*acts.shape[:2], -1)
        covariances = places @ places.swapaxes(1, 2) / places.shape[2]
        of_folds.append(
            ClassVectors(
                acts.astype(np.float32), discriminants, means, mean, covariances, distance_of
            )
        )
    return of_folds


def _labels_of(targets: np.ndarray) -> np.ndarray:
    """Return the class of each row, from the targets of a loss. [1 or C, n] -> [n] int"""
    labels: np.ndarray = (targets.argmax(axis=0) if len(targets) > 1 else targets[0]).astype(int)
    return labels


def _logistic(
    X: np.ndarray, tasks: ProbingTasks, shuffled: np.ndarray, train: np.ndarray
) -> np.ndarray:
    """Return the class vectors of logistic probes, of each fold and then each shuffled labelling.

    The penalty of a fold is chosen inside its training rows. Shuffled labels are fitted on the
    training rows of all folds, at the median of those penalties. -> [folds + shuffled, C, d]
    """
    design = Design(torch.as_tensor(X))
    kind = PROBE_KINDS["logistic"]
    folds, K = len(train), len(shuffled)
    if tasks.inner:
        chosen = search(design, kind, tasks.loss, tasks.inner[:folds], tasks.penalties).l2
    else:
        chosen = np.full(folds, tasks.penalties[0])
    labels = [*[tasks.y] * folds, *shuffled]
    rows = np.concatenate([train, np.tile(train.any(axis=0), (K, 1))])
    targets = torch.as_tensor(np.stack([targets_of(of, tasks.classes) for of in labels]))
    weights = torch.as_tensor(rows).to(design.X.dtype)
    problems = kind.problems(design, tasks.loss, targets.to(design.X.dtype), weights)
    penalties = np.append(chosen, np.full(K, np.quantile(chosen, 0.5, method="lower")))
    coef = problems.raw(problems.solve(torch.as_tensor(penalties))).coef.transpose(1, 2, 0)
    return np.concatenate([-coef, coef], axis=1) if len(tasks.classes) == 2 else coef


def _class_means(X: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the means of the rows of each class. -> [C, d]"""
    return np.stack([X[labels == label].mean(axis=0) for label in range(n_classes)])


def _scaled(of_classes: np.ndarray) -> np.ndarray:
    """Return vectors of classes [..., C, d], centred, and of norm 1 together unless they are 0."""
    centred = of_classes - of_classes.mean(axis=-2, keepdims=True)
    norm = np.linalg.norm(centred, axis=(-2, -1), keepdims=True)
    return np.where(norm > 1e-12, centred / np.maximum(norm, 1e-12), 0.0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [..., d] scaled to length 1; those of 0, as in a constant layer, stay 0."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-12, vectors / np.maximum(length, 1e-12), 0.0)


def _discriminants(X: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the vectors that read the place of a state which LEACE erases. [C, d] -> [C, d]

    For two classes the eraser is ``x - S_xz (S_xz' S_xx⁻¹ S_xz)⁻¹ S_xz' S_xx⁻¹ (x - mean)``
    (Belrose et al. 2023, theorem 4.3, of rank one): it moves along the difference of the means, by
    what the linear discriminant reads. The covariance is shrunk, as theirs is (Chen et al. 2010).
    With more classes, that holds for each pair.
    """
    if not means.any():
        return means
    from sklearn.covariance import oas

    return _scaled(np.linalg.solve(oas(X)[0], means.T).T)


def _alike(own: np.ndarray, variances: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return random vectors of classes that relate to each other as ``own``, and orthogonal to it.

    Parameters
    ----------
    own
        Centred vectors, in the basis of the eigenvectors of the states' covariance. [C, r]
    variances
        The eigenvalues. [r]
    normal
        Normal random numbers. [draws, C - 1, r]

    Returns
    -------
    For each draw, ``own`` with each axis of its span replaced by a random one of like variance.
    [draws, C, r]
    """
    if not own.any():
        return np.zeros((len(normal), *own.shape))
    # In the order of the classes, so that similar layers get similar axes.
    columns, upper = np.linalg.qr(own[:-1].T)
    basis = (columns * np.where(np.diag(upper) < 0, -1, 1)).T
    drawn = np.broadcast_to(basis, (len(normal), *basis.shape))
    for axis, random in zip(basis, normal.swapaxes(0, 1), strict=False):
        more = _of_like_variance(axis, variances, random, drawn)
        drawn = np.concatenate([drawn, more[:, None]], axis=1)
    of_classes: np.ndarray = own @ basis.T @ drawn[:, len(basis) :]
    return of_classes


def _of_like_variance(
    own: np.ndarray, variances: np.ndarray, normal: np.ndarray, beside: np.ndarray
) -> np.ndarray:
    """Return random directions along which the states vary as along ``own``, orthogonal to some.

    The entries of a normal vector are stretched by a power of the eigenvalues. The variance rises
    with the power, so bisection finds the one that gives the wanted variance, or comes nearest.

    Parameters
    ----------
    own
        The direction, in the basis of the eigenvectors of the states' covariance. [r]
    variances
        The eigenvalues. [r]
    normal
        Normal random numbers. [draws, r]
    beside
        Vectors that each is to be orthogonal to, orthonormal themselves. [draws, m, r]

    Returns
    -------
    Directions of length 1. [draws, r]
    """
    wanted, logs = own**2 @ variances, np.log(variances)
    low, high = np.full(len(normal), -MOST_STRETCHED), np.full(len(normal), MOST_STRETCHED)

    def stretched(power: np.ndarray) -> np.ndarray:
        exponents = power[:, None] / 2 * logs
        vectors = _unit(normal * np.exp(exponents - exponents.max(axis=1, keepdims=True)))
        along = beside @ vectors[:, :, None]  # [draws, m, 1]
        return _unit(vectors - (along * beside).sum(axis=1))

    for _ in range(40):
        middle = (low + high) / 2
        less = (stretched(middle) ** 2) @ variances < wanted
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return stretched((low + high) / 2)
