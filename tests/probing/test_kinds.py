"""Kinds of probes: each is one file, also outside the package, and is then known everywhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn import linear_model
from toy import write_config, write_table

import llmprobe
from llmprobe.config.load import load_config
from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import ProbeConfig
from llmprobe.ground.errors import UserError

TOYS = '''
import torch
from llmprobe.probing.fits import ClosedForm
from llmprobe.probing.kinds import ProbeKind, probe_kind
from llmprobe.probing.losses import Logistic


class NearestMeans(ClosedForm):
    def fit(self):
        of_class = torch.cat([1 - self.targets, self.targets], dim=1) * self.weights
        share = of_class / of_class.sum(dim=2, keepdim=True).clamp_min(1)
        means = share @ self.design.X
        direction = means[:, 1:] - means[:, :1]
        middle = means.sum(dim=1, keepdim=True) / 2
        return direction, -(direction * middle).sum(dim=2, keepdim=True)


@probe_kind("nearest_mean")
class NearestMean(ProbeKind):
    """The nearest of two class means, in features of equal spread."""

    has_penalty = False

    def problems(self, design, loss, targets, weights):
        return NearestMeans(design, targets, weights)


class Smoothed(Logistic):
    """Of labels that are right in nine of ten cases."""

    def value(self, logits, targets):
        return super().value(logits, 0.05 + 0.9 * targets)

    def residual(self, means, targets):
        return super().residual(means, 0.05 + 0.9 * targets)


@probe_kind("smoothed")
class SmoothedKind(ProbeKind):
    """Logistic regression on smoothed labels."""

    def loss(self, n_classes):
        return Smoothed()
'''


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file of somebody else's with two kinds of probes."""
    (tmp_path / "toy_kinds.py").write_text(TOYS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("toy_kinds")
    yield
    del sys.modules["toy_kinds"]
    for name in ("nearest_mean", "smoothed"):
        PROBE_KINDS.remove(name)


def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States [150, 6], two classes that their first feature tells, groups of three."""
    rng = np.random.default_rng(0)
    y = rng.permutation(150) % 2
    X = rng.normal(size=(150, 6))
    X[:, 0] += 3 * y
    return X * [1, 2, 3, 4, 5, 6] + 10, y, np.arange(150) // 3


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("kind", ["nearest_mean", "smoothed"])
def test_a_kind_of_ones_own_has_all_that_a_kind_has(kind: str) -> None:
    X, y, groups = planted()
    results = llmprobe.probe_layers(
        {0: X[:, 1:], 1: X}, y, groups, kind=kind, permutations=19, learning_curve=[0.5],
        description_length=kind == "nearest_mean", progress=False,
    )  # fmt: skip
    nothing, signal = results.table.to_dict("records")
    assert nothing["probe"] == signal["probe"] == kind
    assert signal["accuracy"] > 0.85
    assert signal["accuracy"] > signal["control_accuracy"] + 0.2
    assert (signal["p_value"], nothing["p_value"] > 0.05) == (0.05, True)
    assert np.isnan(signal["l2"]) == (kind == "nearest_mean")
    assert results.learning_curve["accuracy"].iloc[1] > 0.85
    (probe,) = results.probes
    assert probe.facts["kind"] == kind
    deviation = X.std(axis=0)
    direction = probe.coef[1][0] * deviation
    if kind == "nearest_mean":
        assert signal["compression"] > 1.5 > nothing["compression"]
        means = (X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)) / deviation
        assert direction == pytest.approx(means, abs=0.01)
    else:
        plain = llmprobe.probe_layers({1: X}, y, groups, permutations=0, progress=False).probes[0]
        assert np.linalg.norm(direction) < 0.9 * np.linalg.norm(plain.coef[1][0] * deviation)


@pytest.mark.usefixtures("toys")
def test_a_config_can_name_a_kind_of_ones_own(tmp_path: Path) -> None:
    """And runs with it: the recipe in CONTRIBUTING.md is run by its own test."""
    table = write_table(tmp_path / "own.csv")
    path = write_config(tmp_path / "run.yaml", "m", table, probe={"kind": "nearest_mean"})
    config = load_config(path)
    assert config.probe.kind == "nearest_mean"
    path.write_text(config.to_yaml())
    assert load_config(path) == config


def test_an_unknown_kind_is_an_error_that_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'rige' is not allowed: .* did you mean 'ridge'\?"):
        llmprobe.probe_layers({0: np.eye(4)}, [0, 1, 0, 1], kind="rige")


def test_a_config_is_checked_without_torch() -> None:
    code = (
        "import sys; from llmprobe.config.schema import ProbeConfig\n"
        "ProbeConfig(kind='mass_mean')\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_has_its_line_in_the_documentation_and_its_estimator() -> None:
    docs = Path(__file__).parents[2].joinpath("docs", "probing.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", docs, re.MULTILINE))
    assert {name: rows.get(name) for name in PROBE_KINDS} == {
        name: f"{type(kind).__doc__.splitlines()[0]} `{kind.estimator}`"
        for name, kind in PROBE_KINDS.items()
    }
    for kind in PROBE_KINDS.values():
        assert hasattr(llmprobe, kind.estimator) or hasattr(linear_model, kind.estimator)
    assert ProbeConfig().kind in PROBE_KINDS
