"""The solver reaches the optimum that scikit-learn reaches at a tight tolerance, for any input."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits
from torch.utils._python_dispatch import TorchDispatchMode

import llmprobe.probing.fit_many as module
from llmprobe import fit_many, fit_many_multinomial
from llmprobe.probing import descent, design
from llmprobe.probing.descent import Descent
from llmprobe.probing.design import Design
from llmprobe.probing.fit_many import Problems
from llmprobe.probing.fits import TOLERANCE
from llmprobe.probing.losses import Logistic, Squared


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Problems this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, about what it thinks of 1e-10
        yield
    torch.set_num_threads(threads)


def planted(n: int, d: int, seed: int, K: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of falling size, and K noisy linear labels."""
    rng = np.random.default_rng(seed)
    sizes = 1 / np.arange(1, min(n, d) + 1)
    X = (rng.normal(size=(n, len(sizes))) * sizes) @ rng.normal(size=(len(sizes), d))
    X = X / X.std() + 0.05 * rng.normal(size=(n, d))
    logits = X @ rng.normal(size=(d, K))
    return X, (logits / logits.std(axis=0) * 2 > rng.logistic(size=(n, K))).astype(float)


def moments(X: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation of each feature; 0 where it is constant."""
    mean = weight @ X / weight.sum()
    deviation = np.sqrt(weight @ (X - mean) ** 2 / weight.sum())
    used = X[weight > 0]
    return mean, np.where(np.ptp(used, axis=0) > 0, deviation, 0)


def objective(
    X: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    l2: float,
    coef: np.ndarray,
    intercept: float,
    scale: np.ndarray,
) -> float:
    """What ``fit_many`` promises to minimise, in float64; ``scale`` is the unit of the penalty."""
    logits = X @ coef + intercept
    loss = target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)
    return float(weight @ loss + l2 / 2 * ((coef * scale) ** 2).sum())


def reference(
    X: np.ndarray, target: np.ndarray, weight: np.ndarray, l2: float, scale: np.ndarray
) -> tuple[np.ndarray, float]:
    """scikit-learn's optimum in raw feature space; a soft target is two rows."""
    mean, _ = moments(X, weight)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    Z = (X - mean) * inverse
    rows = np.concatenate([Z, Z])
    sample_weight = np.concatenate([weight * target, weight * (1 - target)])
    labels = np.repeat([1, 0], len(X))
    held = sample_weight > 0
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    model.fit(rows[held], labels[held], sample_weight=sample_weight[held])
    coef = model.coef_[0] * inverse
    return coef, float(model.intercept_[0] - mean @ coef)


def assert_optimal(
    X: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    l2: float,
    standardize: bool,
    coef_tolerance: float = 1e-3,
) -> None:
    """Every column's objective within 1e-6 of scikit-learn's, its coefficients within 1e-3."""
    fits = fit_many(X, targets, weights, l2, standardize)
    assert fits.converged.all()
    X = X.astype(float)
    for k in range(targets.shape[1]):
        target, weight = targets[:, k], np.ones(len(X)) if weights is None else weights[:, k]
        _, deviation = moments(X, weight)
        scale = deviation if standardize else np.ones(X.shape[1])
        coef, intercept = reference(X, target, weight, l2, scale)
        best = objective(X, target, weight, l2, coef, intercept, scale)
        found = objective(X, target, weight, l2, fits.coef[:, k], float(fits.intercept[k]), scale)
        assert found == pytest.approx(best, rel=1e-6)
        assert fits.loss[k] == pytest.approx(best, rel=1e-6)
        difference = np.abs((fits.coef[:, k] - coef) * scale).max()
        assert difference <= coef_tolerance * np.abs(coef * scale).max()


def offset(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with mean 1e4 and standard deviation 1, next to which float32 has few digits."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 20))
    targets = (X @ rng.normal(size=(20, 3)) * 0.4 > rng.logistic(size=(200, 3))).astype(float)
    return X + 1e4, targets


def scaled(seed: int) -> tuple[np.ndarray, np.ndarray]:
    X, targets = planted(200, 20, seed)
    return X * np.logspace(-4, 4, 20) + np.linspace(0, 1e3, 20), targets


def collinear(seed: int) -> tuple[np.ndarray, np.ndarray]:
    X, targets = planted(200, 20, seed)
    sums = X[:, :3] @ np.random.default_rng(seed).normal(size=(3, 4))
    constants = np.tile([0.1, 7.3, 0, -1e6], (200, 1))
    return np.hstack([X, X[:, :5], sums, constants]), targets


def separable(seed: int) -> tuple[np.ndarray, np.ndarray]:
    X, _ = planted(200, 20, seed)
    return X, (X @ np.random.default_rng(seed).normal(size=(20, 3)) > 0).astype(float)


def imbalanced(seed: int) -> tuple[np.ndarray, np.ndarray]:
    X, targets = planted(200, 20, seed)
    targets[:] = 0
    targets[:3] = 1
    return X, targets


def soft(seed: int) -> tuple[np.ndarray, np.ndarray]:
    X, targets = planted(200, 20, seed)
    return X, np.random.default_rng(seed).random(targets.shape)


INPUTS: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "many rows": lambda seed: planted(600, 20, seed),
    "as many rows as features": lambda seed: planted(100, 100, seed),
    "many features": lambda seed: planted(50, 200, seed),
    "collinear and constant": collinear,
    "separable": separable,
    "imbalanced": imbalanced,
    "offset": offset,
    "float32 offset": lambda seed: (offset(seed)[0].astype(np.float32), offset(seed)[1]),
    "soft targets": soft,
}


@pytest.mark.parametrize("l2", [1e-3, 1e-1, 1, 1e2, 1e5])
@pytest.mark.parametrize("standardize", [True, False], ids=["standardized", "raw"])
@pytest.mark.parametrize("name", INPUTS)
def test_the_optimum_is_scikit_learns(name: str, standardize: bool, l2: float) -> None:
    X, targets = INPUTS[name](seed=int(l2 < 1))
    # Which of two equal features carries the weight hardly matters to a weak penalty.
    loose = 0.02 if name == "collinear and constant" and l2 < 1 else 1e-3
    assert_optimal(X, targets, None, l2, standardize, loose)


@pytest.mark.parametrize("l2", [1e-3, 1, 1e5])
def test_features_of_any_size_are_equal_when_standardized(l2: float) -> None:
    assert_optimal(*scaled(0), None, l2, standardize=True)


@pytest.mark.parametrize("standardize", [True, False], ids=["standardized", "raw"])
@pytest.mark.parametrize("l2", [1e-3, 1, 1e5])
@pytest.mark.parametrize("kind", ["masks", "integers", "small fractions", "large"])
def test_weighted_optima_are_scikit_learns(kind: str, l2: float, standardize: bool) -> None:
    for X, targets in (planted(200, 20, 3), planted(60, 120, 4)):
        rng = np.random.default_rng(5)
        weights = {
            "masks": rng.random(targets.shape) < 0.7,
            "integers": rng.integers(0, 5, targets.shape),
            "small fractions": rng.random(targets.shape) * 0.01,
            "large": rng.random(targets.shape) * 1e4,
        }[kind].astype(float)
        assert_optimal(X, targets, weights, l2, standardize)


def test_a_huge_row_costs_the_columns_without_it_no_digits() -> None:
    X, targets = planted(150, 20, 3)
    X[0, :4] *= 1e4
    weights = np.ones_like(targets)
    weights[0] = 0
    assert_optimal(X, targets, weights, 1.0, standardize=True)


@pytest.mark.parametrize("n_left_out", [40, 140])
def test_features_that_vary_only_in_left_out_rows_get_no_coefficient(n_left_out: int) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 5)), (rng.random(200) < 0.5).astype(float)[:, None]
    left_out = (np.arange(200) < n_left_out)[:, None]
    leaks = np.where(left_out, y + 0.1 * rng.normal(size=(200, 8)), rng.normal(size=8) * 3)
    fits = fit_many(np.hstack([X, leaks]), y, ~left_out, l2=1e-2)
    assert (fits.coef[5:] == 0).all()
    without = fit_many(X, y, ~left_out, l2=1e-2)
    assert fits.coef[:5] == pytest.approx(without.coef, abs=1e-4)


@pytest.mark.parametrize("l2", [1e-3, 1, 1e5])
@pytest.mark.parametrize(("n", "d"), [(600, 20), (100, 100), (50, 200)])
def test_converged_means_a_gradient_below_the_tolerance(n: int, d: int, l2: float) -> None:
    X, targets = planted(n, d, 7)
    fits = fit_many(X, targets, l2=l2)
    assert fits.converged.all()
    sign = 2 * targets - 1
    errors = -sign / (1 + np.exp(sign * (X @ fits.coef + fits.intercept)))
    mean, deviation = X.mean(axis=0), X.std(axis=0)[:, None]
    gradient = ((X - mean) / deviation.T).T @ errors + l2 * fits.coef * deviation
    largest = np.maximum(np.abs(gradient).max(axis=0), np.abs(errors.sum(axis=0)))
    # Twice, since the solver sees its gradient in float32.
    assert (largest <= 2 * TOLERANCE * np.maximum(np.abs(errors).sum(axis=0), 1e-6 * n)).all()


def test_a_fit_that_was_cut_short_says_so() -> None:
    X, targets = planted(100, 20, 0)
    X[:, 0] = targets[:, 0]
    cut = fit_many(X, targets, l2=1e-3, max_iterations=1)
    assert not cut.converged.any()
    assert (cut.loss > fit_many(X, targets, l2=1e-3).loss * 1.01).all()
    assert np.isfinite(cut.coef).all()


@pytest.mark.parametrize("l2", [1e-3, 1, 1e5])
def test_a_column_of_one_class_ends_certain_and_finite(l2: float) -> None:
    X, targets = planted(100, 20, 0)
    targets[:, 0], targets[:, 1] = 0, 1
    fits = fit_many(X, targets, l2=l2)
    assert fits.converged.all()
    assert np.isfinite(fits.coef).all()
    assert -30 < fits.intercept[0] < -15
    assert 15 < fits.intercept[1] < 30
    assert fits.loss[:2] == pytest.approx(0, abs=1e-5)
    alone = fit_many(X, targets[:, 2:], l2=l2)
    assert fits.coef[:, 2:] == pytest.approx(alone.coef, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (50, 80), (1, 3)])
@pytest.mark.parametrize("standardize", [True, False])
def test_constant_features_leave_the_share_of_the_class(n: int, d: int, standardize: bool) -> None:
    targets = (np.arange(n) % 5 == 0).astype(float)[:, None]
    fits = fit_many(np.full((n, d), 0.1), targets, standardize=standardize)
    assert (fits.coef == 0).all()
    if n > 1:
        assert fits.intercept[0] == pytest.approx(np.log(0.2 / 0.8), abs=1e-4)


def test_rotating_the_features_rotates_the_coefficients() -> None:
    X, targets = planted(200, 20, 1)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))
    straight = fit_many(X, targets, l2=0.1, standardize=False)
    rotated = fit_many(X @ rotation, targets, l2=0.1, standardize=False)
    size = np.abs(straight.coef).max()
    assert rotated.coef == pytest.approx(rotation.T @ straight.coef, abs=1e-3 * size)
    assert rotated.loss == pytest.approx(straight.loss, rel=1e-6)


def test_integer_weights_are_repeated_rows() -> None:
    X, targets = planted(120, 20, 2, K=1)
    times = np.random.default_rng(0).integers(0, 4, 120)
    weighted = fit_many(X, targets, times[:, None], l2=0.1)
    repeated = fit_many(np.repeat(X, times, axis=0), np.repeat(targets, times, axis=0), l2=0.1)
    assert weighted.coef == pytest.approx(repeated.coef, abs=1e-3 * np.abs(repeated.coef).max())
    assert weighted.loss == pytest.approx(repeated.loss, rel=1e-6)


def test_columns_do_not_know_of_each_other() -> None:
    X, targets = planted(150, 30, 3, K=6)
    rng = np.random.default_rng(0)
    weights = rng.random(targets.shape)
    l2 = np.logspace(-3, 4, 6)
    together = fit_many(X, targets, weights, l2)
    order = rng.permutation(6)
    permuted = fit_many(X, targets[:, order], weights[:, order], l2[order])
    assert permuted.loss == pytest.approx(together.loss[order], rel=1e-6)
    for k in range(6):
        alone = fit_many(X, targets[:, [k]], weights[:, [k]], l2[k])
        size = np.abs(alone.coef).max()
        assert together.coef[:, [k]] == pytest.approx(alone.coef, abs=1e-3 * size)
        assert permuted.coef[:, [list(order).index(k)]] == pytest.approx(
            alone.coef, abs=1e-3 * size
        )
        assert together.loss[k] == pytest.approx(alone.loss[0], rel=1e-6)


@pytest.mark.parametrize("standardize", [True, False])
def test_a_warm_start_ends_at_the_same_optimum(standardize: bool) -> None:
    X, targets = planted(80, 120, 3)
    problems = Problems(Design(X, standardize), Logistic(), torch.as_tensor(targets).T[:, None])
    warm = problems.solve(0.1, problems.solve(10.0, problems.solve(1000.0)))
    cold = problems.solve(0.1)
    assert warm.converged.all()
    assert warm.loss.numpy() == pytest.approx(cold.loss.numpy(), rel=1e-6)
    assert problems.solve(0.1, cold, max_iterations=0).converged.all()


@pytest.mark.parametrize("l2", [1e-3, 1])
@pytest.mark.parametrize("factor", [-50, -5, 50])
def test_a_start_that_is_sure_of_the_wrong_ends_at_the_same_optimum(
    factor: float, l2: float
) -> None:
    X, targets = planted(200, 20, 0)
    problems = Problems(Design(X), Logistic(), torch.as_tensor(targets).T[:, None])
    optimum = problems.solve(l2)
    intercept = optimum.intercept + factor
    wrong = replace(
        optimum,
        direction=optimum.direction * factor,
        intercept=intercept,
        logits=(optimum.logits - optimum.intercept[..., None]) * factor + intercept[..., None],
        pull=None,
    )
    again = problems.solve(l2, wrong)
    assert again.converged.all()
    assert again.loss.numpy() == pytest.approx(optimum.loss.numpy(), rel=1e-6)


def test_logits_of_a_solution_are_those_of_its_raw_coefficients() -> None:
    X, targets = offset(0)
    problems = Problems(Design(X), Logistic(), torch.as_tensor(targets).T[:, None])
    solution = problems.solve(1e-2)
    fits = problems.raw(solution)
    assert solution.logits[:, 0].T.numpy() == pytest.approx(
        X @ fits.coef[..., 0] + fits.intercept[:, 0], abs=1e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.ones(10)}, r"X must be \[n, d\]"),
        ({"X": np.ones((0, 3)), "targets": np.ones((0, 1))}, "not empty"),
        ({"X": np.full((10, 3), np.nan)}, "X has values that are not finite"),
        ({"X": np.full((10, 3), np.inf)}, "X has values that are not finite"),
        ({"targets": np.ones(10)}, r"targets must be \[10, K\]"),
        ({"targets": np.ones((9, 1))}, r"targets must be \[10, K\]"),
        ({"targets": np.ones((10, 0))}, r"targets must be \[10, K\]"),
        ({"targets": np.full((10, 1), 2)}, "between 0 and 1"),
        ({"targets": np.full((10, 1), np.nan)}, "between 0 and 1"),
        ({"weights": np.ones((10, 2))}, r"weights must be \(10, 1\)"),
        ({"weights": -np.ones((10, 1))}, "weights must be finite and not negative"),
        ({"weights": np.zeros((10, 1))}, "nor all zero"),
        ({"weights": np.full((10, 1), np.nan)}, "weights must be finite"),
        ({"weights": np.full((10, 1), np.inf)}, "weights must be finite"),
        ({"l2": 0.0}, "l2 must be above 0"),
        ({"l2": -1.0}, "l2 must be above 0"),
        ({"l2": np.nan}, "l2 must be above 0"),
        ({"l2": np.inf}, "l2 must be above 0"),
        ({"l2": np.ones(2)}, "l2 must be above 0"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], message: str) -> None:
    X = np.random.default_rng(0).normal(size=(10, 3))
    right = {"X": X, "targets": (X[:, :1] > 0).astype(float)}
    with pytest.raises(ValueError, match=message):
        fit_many(**{**right, **change})


@pytest.mark.parametrize("flushed", [True, False])
def test_the_callers_treatment_of_denormals_comes_back(flushed: bool) -> None:
    X, targets = planted(50, 5, 0)
    torch.set_flush_denormal(flushed)
    try:
        fit_many(X, targets)
        assert bool(torch.tensor(1e-38) / 4 == 0) is flushed
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("standardize", [True, False], ids=["standardized", "raw"])
@pytest.mark.parametrize("l2", [1e-2, 1, 1e3])
@pytest.mark.parametrize(("n", "d", "C"), [(300, 20, 4), (60, 120, 3), (200, 10, 2)])
def test_the_softmax_optimum_is_scikit_learns(
    n: int, d: int, C: int, l2: float, standardize: bool
) -> None:
    X, _ = planted(n, d, 5)
    rng = np.random.default_rng(1)
    scores = X @ rng.normal(size=(d, C))
    y = (3 * scores / scores.std() + rng.gumbel(size=(n, C))).argmax(axis=1)
    times = rng.integers(0, 3, (n, 2))
    one_hot = np.eye(C)[y][:, None].repeat(2, axis=1)
    fits = fit_many_multinomial(X, one_hot, times, l2, standardize)
    assert fits.converged.all()
    assert fits.coef.shape == (d, 2, C)
    assert fits.coef.sum(axis=2) == pytest.approx(0, abs=1e-8)
    assert fits.intercept.sum(axis=1) == pytest.approx(0, abs=1e-8)
    for k in range(2):
        rows = np.repeat(np.arange(n), times[:, k])
        mean, scale = moments(X, times[:, k])
        if not standardize:
            scale = np.ones(d)
        model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
        Z = ((X - mean) / scale)[rows]
        if C == 2:  # scikit-learn has one direction here, which is two halves.
            model.set_params(C=2 / l2)
        coef = model.fit(Z, y[rows]).coef_
        coef = coef if C > 2 else np.concatenate([-coef, coef]) / 2
        found = fits.coef[:, k].T * scale
        logits = X[rows] @ fits.coef[:, k] + fits.intercept[k]
        loss = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(rows)), y[rows]]
        assert fits.loss[k] == pytest.approx(loss.sum() + l2 / 2 * (found**2).sum(), rel=1e-5)
        np.testing.assert_allclose(found, coef, atol=2e-3 * np.abs(coef).max())


def test_two_classes_are_one_problem_with_twice_the_penalty() -> None:
    X, targets = planted(200, 20, 2)
    two = np.stack([1 - targets, targets], axis=2)
    coupled, single = fit_many_multinomial(X, two, l2=4.0), fit_many(X, targets, l2=2.0)
    difference = coupled.coef[..., 1] - coupled.coef[..., 0]
    assert difference == pytest.approx(single.coef, abs=1e-3 * np.abs(single.coef).max())
    assert coupled.loss == pytest.approx(single.loss, rel=1e-5)


def test_the_order_of_classes_is_that_of_the_directions() -> None:
    X, _ = planted(200, 20, 3)
    one_hot = np.eye(3)[np.random.default_rng(0).integers(0, 3, 200)][:, None]
    straight = fit_many_multinomial(X, one_hot, l2=1.0)
    turned = fit_many_multinomial(X, one_hot[..., ::-1].copy(), l2=1.0)
    assert turned.coef[..., ::-1] == pytest.approx(straight.coef, abs=1e-3)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.ones((10, 1)), r"targets must be \[10, K, C\]"),
        (np.ones((9, 1, 2)), r"targets must be \[10, K, C\]"),
        (np.ones((10, 1, 1)), r"targets must be \[10, K, C\]"),
        (np.ones((10, 1, 2)), "sum to 1"),
        (np.tile([2.0, -1.0], (10, 1, 1)), "between 0 and 1"),
    ],
)
def test_wrong_class_probabilities_are_named(targets: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_many_multinomial(np.ones((10, 3)), targets)


@pytest.mark.parametrize(("n", "d"), [(300, 100), (100, 300)])
@pytest.mark.parametrize("l2", [1e-1, 1e2])
def test_the_largest_directions_alone_precondition_as_exactly(
    n: int, d: int, l2: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, targets = planted(n, d, 4)
    whole = fit_many(X, targets, l2=l2)
    monkeypatch.setattr(design, "WHOLE_BASIS", 10)
    monkeypatch.setattr(design, "BASIS_RANK", 16)
    assert Design(X).basis.shape == (16, d)
    assert_optimal(X, targets, None, l2, standardize=True)
    assert fit_many(X, targets, l2=l2).loss == pytest.approx(whole.loss, rel=1e-6)


@pytest.mark.parametrize("budget", [1, 30_000])
def test_a_small_memory_budget_gives_the_same(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    X, targets = planted(100, 20, 4, K=7)
    together = fit_many(X, targets, l2=0.1)
    monkeypatch.setattr(module, "CHUNK_BYTES", budget)
    apart = fit_many(X, targets, l2=0.1)
    assert apart.loss == pytest.approx(together.loss, rel=1e-6)
    assert apart.coef == pytest.approx(together.coef, abs=1e-3 * np.abs(together.coef).max())


def test_rows_count_in_the_preconditioner_as_they_do_in_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, targets = planted(400, 60, 0, 4)
    weights = (np.random.default_rng(0).random((400, 4)) < 0.8).astype(float)
    fit = partial(fit_many, X, targets[:, [0] * 4], weights, 1e-3, max_iterations=14)
    assert fit().converged.all()
    monkeypatch.setattr(descent, "REWEIGHTED_AFTER", 1000)
    assert not fit().converged.all()


def test_numbers_are_fitted_as_ridge_regression_fits_them() -> None:
    X, _ = planted(120, 30, 6)
    y = X @ np.random.default_rng(0).normal(size=30) + np.random.default_rng(1).normal(size=120)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    for l2 in (1e-1, 10.0, 1e3):
        problems = Problems(Design(X), Squared(), torch.as_tensor(y)[None, None])
        fits = problems.raw(problems.solve(l2))
        plain = Ridge(alpha=l2).fit(Z, y)
        assert fits.coef[:, 0, 0] * X.std(axis=0) == pytest.approx(plain.coef_, abs=1e-3)


@pytest.mark.parametrize("l2", [1e-2, 1e3])
def test_classes_that_are_absent_end_certain_and_finite(l2: float) -> None:
    X, _ = planted(40, 60, 0)
    y = np.zeros((40, 3))
    y[:, 0] = 1
    weights = np.stack([np.arange(40) < 5, np.arange(40) >= 0], axis=1)
    fits = fit_many_multinomial(X, np.stack([y, y], axis=1), weights, l2)
    assert fits.converged.all()
    assert np.isfinite(fits.coef).all()
    assert fits.loss == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e17, 1e25])
@pytest.mark.parametrize("standardize", [True, False])
def test_features_of_extreme_size_are_read_too(size: float, standardize: bool) -> None:
    X, targets = planted(100, 20, 0)
    plain = fit_many(X.astype(np.float32), targets, l2=1.0, standardize=standardize)
    l2 = 1.0 if standardize else size**2
    extreme = fit_many((X * size).astype(np.float32), targets, l2=l2, standardize=standardize)
    assert extreme.coef * size == pytest.approx(plain.coef, rel=1e-3, abs=1e-4)
    assert extreme.loss == pytest.approx(plain.loss, rel=1e-5)


def test_a_step_takes_one_evaluation_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """At chance; what else would take as long as the products with the features."""
    X, _ = planted(300, 40, 0)
    targets = (np.random.default_rng(0).random((300, 30)) < 0.5).astype(float)
    calls = dict.fromkeys(("means", "value", "move"), 0)

    def counted(owner: type, name: str) -> None:
        plain = getattr(owner, name)

        def call(*arguments: object) -> object:
            calls[name] += 1
            return plain(*arguments)

        monkeypatch.setattr(owner, name, call)

    counted(Logistic, "means")
    counted(Logistic, "value")
    counted(Descent, "move")
    problems = Problems(Design(X), Logistic(), torch.as_tensor(targets).T[:, None])
    assert problems.solve(100.0).converged.all()
    assert 2 <= calls["move"] < 10
    assert calls["means"] <= calls["move"] + 2
    assert calls["value"] == 1


def test_a_start_has_its_logits_and_gradient() -> None:
    """So that a path of penalties makes no product with the features twice."""
    X, targets = planted(100, 20, 0)
    problems = Problems(Design(X), Logistic(), torch.as_tensor(targets).T[:, None])
    start = problems.solve(10.0)
    assert start.pull is not None
    plain = problems.solve(1.0, replace(start, pull=None))
    warm = problems.solve(1.0, start)
    assert warm.direction.numpy() == pytest.approx(plain.direction.numpy(), abs=1e-5)
    pulled = start.pull + 10.0 * start.direction
    assert pulled.abs().max() < 1e-3 * start.direction.abs().max() * 10


class _NewArrays(TorchDispatchMode):
    """Count arrays of a size that no argument lends its memory."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(
        self,
        function: Callable[..., object],
        types: object,
        arguments: tuple[object, ...] = (),
        options: dict[str, object] | None = None,
    ) -> object:
        result = function(*arguments, **(options or {}))
        known = {x.data_ptr() for x in arguments if isinstance(x, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.numel() >= self.size:
            self.count += result.data_ptr() not in known
        return result


@pytest.mark.parametrize(("n", "d"), [(3000, 60), (1200, 1100)])
def test_a_design_copies_the_features_once(n: int, d: int) -> None:
    """Of 100,000 rows a copy takes gigabytes."""
    X = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    with _NewArrays(n * d) as arrays:
        design = Design(X)
        torch.ones(4, n, device=design.X.device)
    assert arrays.count == 1
