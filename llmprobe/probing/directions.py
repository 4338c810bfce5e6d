"""Directions of a layer's states along which a model can be changed, and such as say nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.probing.design import Design
from llmprobe.probing.search import search
from llmprobe.probing.tasks import ProbingTasks, targets_of

KINDS = ("logistic", "mean_difference")
"""Directions that have a null of their own: the same fitted to other labels, or drawn at random."""

FITTED = (*KINDS, "leace")
"""All that are fitted to the labels."""

MOST_STRETCHED = 2.0
"""The power of the eigenvalues beyond which all random directions would be near the largest."""


@dataclass(frozen=True)
class Directions:
    """K directions from one class to another.

    First those of the labels (``FITTED``), then, for each draw of the null, one of each of
    ``KINDS``.
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


@dataclass(frozen=True)
class ClassVectors:
    """What K kinds of directions have for each class, for the texts of one fold.

    None of them was fitted on these texts. A direction from one class to another is the difference
    of what it has for the two.
    """

    acts: np.ndarray
    """[K, C, d]"""
    discriminants: np.ndarray
    """What LEACE reads. [C, d]"""
    means: np.ndarray
    """Of the states of each class. [C, d]"""
    mean: np.ndarray
    """Of all states. [d]"""
    covariances: np.ndarray
    """Of where states stand along what each kind has for two classes. [K, C, C]"""
    distance_of: np.ndarray
    """As ``Directions`` has it. [K]"""

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
    """Fit the directions of one layer, for the texts of each fold on those of the others.

    Half of the null are fitted to shuffled labels, by the penalties of the labels themselves, and
    on the texts of all folds: what is read of labels is nearly one direction in all folds, whose
    effects add up, and what is fitted to noise in each would be several. The other half are random:
    orthogonal to what they stand beside, and such that the states vary along both alike as far as
    that can be; of several classes they stand to each other as those do.

    Parameters
    ----------
    X
        The states. [n, d]
    tasks
        Of two classes or more, with as many shuffled labellings as are to be fitted.
    null
        How many draws there are: of shuffled labels as many as ``tasks`` has, else random ones.
    seed
        Of the random ones, which are near each other in layers that are alike if it is the same.
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
    """Return the class of each row, from what the loss takes. [1 or C, n] -> [n] int"""
    labels: np.ndarray = (targets.argmax(axis=0) if len(targets) > 1 else targets[0]).astype(int)
    return labels


def _logistic(
    X: np.ndarray, tasks: ProbingTasks, shuffled: np.ndarray, train: np.ndarray
) -> np.ndarray:
    """Return what logistic probes have for each class, of each fold and each other labelling.

    The penalty of a fold is chosen inside its training rows; that of other labels, which are fitted
    on the training rows of all folds, is the middle one. -> [folds + shuffled, C, d]
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
    """Return what there is for each class [..., C, d], centred and, where not 0, of norm 1."""
    centred = of_classes - of_classes.mean(axis=-2, keepdims=True)
    norm = np.linalg.norm(centred, axis=(-2, -1), keepdims=True)
    return np.where(norm > 1e-12, centred / np.maximum(norm, 1e-12), 0.0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [..., d] of length 1; where there is none, as in a constant layer, of 0."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-12, vectors / np.maximum(length, 1e-12), 0.0)


def _discriminants(X: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return what reads the place of a state that LEACE sets to the middle. [C, d] -> [C, d]

    For two classes the eraser is ``x - S_xz (S_xz' S_xx⁻¹ S_xz)⁻¹ S_xz' S_xx⁻¹ (x - mean)``
    (Belrose et al. 2023, theorem 4.3, of rank one): it moves along the difference of the means, by
    what the linear discriminant reads. The covariance is shrunk, as theirs is (Chen et al. 2010).
    Of more classes it is that of each two.
    """
    if not means.any():
        return means
    from sklearn.covariance import oas

    return _scaled(np.linalg.solve(oas(X)[0], means.T).T)


def _alike(own: np.ndarray, variances: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return random vectors of classes that stand to each other as some do, orthogonal to those.

    Parameters
    ----------
    own
        Centred, in the basis of the eigenvectors of the states' covariance. [C, r]
    variances
        The eigenvalues. [r]
    normal
        Normal random numbers. [draws, C - 1, r]

    Returns
    -------
    Of each draw: in place of each axis of what ``own`` spans, one of like variance. [draws, C, r]
    """
    if not own.any():
        return np.zeros((len(normal), *own.shape))
    # In the order of the classes, so that it is one and the same in layers that are alike.
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
    """Return random directions along which the states vary as along one, orthogonal to some.

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
    beside
        What each is orthogonal to, of length 1 and orthogonal to each other. [draws, m, r]

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
