"""The estimators keep scikit-learn's contract and find what its own find."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partialmethod
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from llmprobe import LogisticProbe, MassMeanProbe, RidgeProbe
from llmprobe.probing.estimators import Problems
from llmprobe.probing.search import PENALTIES

CLASSIFIERS = [LogisticProbe(), MassMeanProbe(), MassMeanProbe(covariance=True)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Problems this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


def hidden_states(n: int, d: int, n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States with a few large directions and an offset, and noisy labels."""
    rng = np.random.default_rng(seed)
    sizes = np.arange(1, min(n, d) + 1) ** -0.7
    X = (rng.normal(size=(n, len(sizes))) * sizes) @ rng.normal(size=(len(sizes), d))
    logits = X @ rng.normal(size=(d, n_classes))
    y = (3 * logits / logits.std() + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return X + 3 * rng.normal(size=d), y


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [
        *CLASSIFIERS,
        LogisticProbe(l2=1.0, standardize=False),
        MassMeanProbe(covariance=True, shrinkage=0.0),
        RidgeProbe(),
        RidgeProbe(l2=1.0, standardize=False),
    ]
)
def test_the_estimator_contract_is_kept(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(("n", "d", "n_classes"), [(300, 20, 2), (300, 20, 4), (90, 150, 3)])
def test_logistic_fits_are_those_of_scikit_learn(
    n: int, d: int, n_classes: int, standardize: bool
) -> None:
    X, y = hidden_states(n, d, n_classes)
    weight = np.random.default_rng(1).uniform(0.2, 3, size=n)
    scaler = StandardScaler().fit(X, sample_weight=weight)
    Z, unit = (scaler.transform(X), scaler.scale_) if standardize else (X, 1.0)
    for l2 in (100.0, 1.0, 0.05):
        model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10000, solver="newton-cg")
        model.fit(Z, y, sample_weight=weight)
        probe = LogisticProbe(l2, standardize=standardize).fit(X, y, sample_weight=weight)
        assert probe.l2_ == l2
        assert probe.coef_.shape == model.coef_.shape
        assert probe.intercept_.shape == model.intercept_.shape
        np.testing.assert_allclose(probe.predict_proba(X), model.predict_proba(Z), atol=3e-4)
        coef = model.coef_ / unit
        assert np.abs(probe.coef_ - coef).max() < 1e-3 * np.abs(coef).max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("seed", [5, 9, 11])  # where the weights matter
def test_the_penalty_is_the_one_of_a_plain_cross_validation(n_classes: int, seed: int) -> None:
    X, y = hidden_states(200, 30, n_classes, seed)
    rng = np.random.default_rng(seed)
    groups, weight = rng.integers(4, size=200), rng.uniform(0.1, 3, size=200)
    losses = []
    for l2 in PENALTIES:
        loss = 0.0
        for train, test in LeaveOneGroupOut().split(X, y, groups):
            scaler = StandardScaler().fit(X[train], sample_weight=weight[train])
            model = LogisticRegression(C=1 / l2, tol=1e-6, max_iter=10000)
            model.fit(scaler.transform(X[train]), y[train], sample_weight=weight[train])
            p = model.predict_proba(scaler.transform(X[test]))[np.arange(len(test)), y[test]]
            loss -= weight[test] @ np.log(p)
        losses.append(loss)
    # As many groups as folds: each is one.
    probe = LogisticProbe(folds=4).fit(X, y, sample_weight=weight, groups=groups)
    assert probe.l2_ == PENALTIES[int(np.argmin(losses))]


def test_no_split_separates_copies_or_groups() -> None:
    """Labels are noise, so only copies can be predicted: by a weak penalty."""
    rng = np.random.default_rng(0)
    X, y = np.tile(rng.normal(size=(60, 100)), (3, 1)), np.tile(rng.integers(2, size=60), 3)
    nearly = X + 1e-3 * rng.normal(size=X.shape)
    strong = LogisticProbe().fit(nearly, y, groups=np.tile(np.arange(60), 3)).l2_
    assert LogisticProbe().fit(X, y).l2_ == strong >= 1e3
    assert LogisticProbe().fit(nearly, y).l2_ < 10
    # A copy joins two groups into one.
    groups = np.concatenate([np.arange(60), np.tile(np.arange(60, 120), 2)])
    half = np.concatenate([X[:60], X[60:120], nearly[120:]])
    assert LogisticProbe().fit(half, y, groups=groups).l2_ >= 1e3


def test_the_order_of_rows_does_not_matter() -> None:
    X, y = hidden_states(100, 10, 3)
    order = np.random.default_rng(0).permutation(100)
    for probe in CLASSIFIERS:
        first, second = (probe.fit(X[rows], y[rows]).coef_ for rows in (np.arange(100), order))
        np.testing.assert_array_equal(first, second)


def test_few_members_of_a_class_make_fewer_folds_and_one_is_too_few() -> None:
    X, y = hidden_states(60, 10, 2)
    y[:] = 0
    y[:3] = 1
    X[:3] += 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogisticProbe().fit(X, y)
    y[:2] = 0
    with pytest.warns(UserWarning, match="class 1 has 1 example, too few for 2 folds"):
        assert LogisticProbe().fit(X, y).l2_ == 1
    with pytest.warns(UserWarning, match="group is too few"):
        LogisticProbe().fit(X, y, groups=np.zeros(60))


def test_an_unfinished_fit_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Problems, "solve", partialmethod(Problems.solve, max_iterations=2))
    with pytest.warns(ConvergenceWarning, match="did not converge at l2=0.01"):
        LogisticProbe(l2=0.01).fit(*hidden_states(100, 10, 2))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("probe", CLASSIFIERS, ids=repr)
def test_directions_can_be_reused(probe: Any, n_classes: int) -> None:
    X, y = hidden_states(120, 15, n_classes)
    names = np.array(["a", "b", "c"])[y]
    probe.fit(X.astype(np.float32), names)
    logits = X @ probe.coef_.T + probe.intercept_
    np.testing.assert_allclose(
        probe.decision_function(X), logits[:, 0] if n_classes == 2 else logits, rtol=1e-12
    )
    p = probe.predict_proba(X)
    np.testing.assert_allclose(np.log(p), probe.predict_log_proba(X), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(probe.predict(X), probe.classes_[p.argmax(axis=1)])
    assert np.mean(probe.predict(X) == names) > 0.6


def test_probes_work_in_pipelines_and_searches() -> None:
    X, y = hidden_states(150, 12, 2)
    for probe in CLASSIFIERS:
        assert cross_val_score(make_pipeline(StandardScaler(), probe), X, y, cv=3).mean() > 0.6
    grid = {"l2": [1e5, 1.0], "standardize": [True, False]}
    assert GridSearchCV(LogisticProbe(), grid, cv=3).fit(X, y).best_params_["l2"] == 1
    assert GridSearchCV(RidgeProbe(), grid, cv=3).fit(X, X[:, 0] + y).best_params_["l2"] == 1


def test_the_mass_mean_direction_joins_the_class_means() -> None:
    X, y = hidden_states(200, 30, 2)
    between = X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)
    along = X @ between
    probe = MassMeanProbe().fit(X, y)
    cosine = probe.coef_[0] @ between / np.linalg.norm(probe.coef_) / np.linalg.norm(between)
    assert cosine == pytest.approx(1, abs=1e-9)
    within = along - np.array([along[y == k].mean() for k in (0, 1)])[y]
    # Normal classes of one variance along the direction.
    expected = (between @ between) * between / within.var()
    np.testing.assert_allclose(probe.coef_[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_with_a_covariance_it_is_linear_discriminant_analysis(n_classes: int) -> None:
    X, y = hidden_states(400, 20, n_classes)
    X[:, 3] *= 1e3
    probe = MassMeanProbe(covariance=True, shrinkage=0.0).fit(X, y)
    for solver in ("lsqr", "eigen"):
        lda = LinearDiscriminantAnalysis(solver=solver).fit(X, y)
        np.testing.assert_allclose(probe.predict_proba(X), lda.predict_proba(X), atol=1e-8)
    shrunk = MassMeanProbe(covariance=True).fit(X, y)
    assert 0 < shrunk.shrinkage_ < 0.05
    assert np.mean(shrunk.predict(X) == lda.predict(X)) > 0.95


@pytest.mark.parametrize(("n", "d"), [(40, 90), (90, 40)])
def test_the_covariance_is_shrunk_in_units_of_the_features(n: int, d: int) -> None:
    X, y = hidden_states(n, d, 2)
    X *= np.geomspace(1e-3, 1e3, d)
    probe = MassMeanProbe(covariance=True).fit(X, y)
    means = np.stack([X[y == k].mean(axis=0) for k in (0, 1)])
    rows = X - means[y]
    unit = rows.std(axis=0)
    S = np.cov(rows / unit, rowvar=False, bias=True)
    trace, square, dof = np.trace(S), np.trace(S @ S), n - 2
    share = ((1 - 2 / d) * square + trace**2) / ((dof + 1 - 2 / d) * (square - trace**2 / d))
    assert probe.shrinkage_ == pytest.approx(min(share, 1))
    shrunk = (1 - share) * S + share * trace / d * np.eye(d)
    direction = np.linalg.solve(shrunk, (means[1] - means[0]) / unit) / unit
    np.testing.assert_allclose(probe.coef_[0], direction, rtol=1e-7)
    log_odds = np.log(np.mean(y == 1) / np.mean(y == 0))
    assert probe.intercept_[0] == pytest.approx(log_odds - means.mean(axis=0) @ direction)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(("n", "d"), [(100, 20), (60, 150)])
def test_ridge_is_that_of_scikit_learn(n: int, d: int, standardize: bool) -> None:
    X, _ = hidden_states(n, d, 2)
    rng = np.random.default_rng(1)
    Y = X @ rng.normal(size=(d, 3)) / d**0.5 + rng.normal(size=(n, 3)) * [0.01, 1, 30]
    Z = StandardScaler().fit_transform(X) if standardize else X
    for l2 in (1e3, 1.0, 1e-2):
        model = Ridge(alpha=l2).fit(Z, Y)
        probe = RidgeProbe(l2, standardize).fit(X, Y)
        np.testing.assert_allclose(probe.predict(X), model.predict(Z), rtol=1e-6, atol=1e-6)
    model = RidgeCV(alphas=PENALTIES, alpha_per_target=True).fit(Z, Y)
    probe = RidgeProbe(standardize=standardize).fit(X, Y)
    np.testing.assert_array_equal(probe.l2_, model.alpha_)
    assert len(set(probe.l2_)) > 1
    np.testing.assert_allclose(probe.loo_error_, -model.best_score_, rtol=1e-6)
    np.testing.assert_allclose(probe.predict(X), model.predict(Z), rtol=1e-6, atol=1e-6)
    alone = RidgeProbe(standardize=standardize).fit(X, Y[:, 1])
    assert alone.coef_.shape == (d,)
    np.testing.assert_allclose(alone.predict(X), probe.predict(X)[:, 1], rtol=1e-9, atol=1e-9)
    assert (alone.l2_, alone.loo_error_) == pytest.approx((probe.l2_[1], probe.loo_error_[1]))


@pytest.mark.parametrize("l2", [10.0, 1e-6])
@pytest.mark.parametrize(("n", "d"), [(30, 5), (20, 60)])
def test_the_leave_one_out_error_is_that_of_fits_without_each_row(
    n: int, d: int, l2: float
) -> None:
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(n, d)) + 2, rng.uniform(0.2, 3, size=n)
    y = X[:, 0] + rng.normal(size=n)
    errors = []
    for i in range(n):
        rest = np.arange(n) != i
        model = Ridge(alpha=l2, solver="svd").fit(X[rest], y[rest], sample_weight=weight[rest])
        errors.append((y[i] - model.predict(X[i : i + 1])[0]) ** 2)
    probe = RidgeProbe(l2, standardize=False).fit(X, y, sample_weight=weight)
    assert probe.loo_error_ == pytest.approx(np.average(errors, weights=weight), rel=1e-6)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (LogisticProbe(l2="best"), "l2 is 'best'; it must be \"auto\" or a number above 0"),
        (LogisticProbe(l2=0), "l2 is 0;"),
        (RidgeProbe(penalties=[1, -1]), r"penalties is \[1, -1\]; it must be a list of numbers"),
        (RidgeProbe(penalties=[]), r"penalties is \[\];"),
        (LogisticProbe(folds=1), "folds is 1; it must be an integer of at least 2"),
        (MassMeanProbe(shrinkage=2), 'shrinkage is 2; it must be "auto" or between 0 and 1'),
    ],
    ids=repr,
)
def test_errors_say_what_would_be_right(probe: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe.fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="one class"):
        MassMeanProbe().fit(np.eye(4), [1, 1, 1, 1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("offset", [0.1, 12345.678])
def test_constant_features_change_nothing(offset: float) -> None:
    """Their mean is not exactly themselves."""
    X, y = hidden_states(101, 8, 3)
    wider = np.column_stack([X, np.full(101, offset)])
    for probe in [*CLASSIFIERS, RidgeProbe(), RidgeProbe(standardize=False)]:
        expected, found = (probe.fit(part, y).coef_ for part in (X, wider))
        np.testing.assert_array_equal(found[..., -1], 0)
        np.testing.assert_allclose(found[..., :-1], expected, rtol=1e-4, atol=1e-7)
