"""Synthetic result tables with the shape of real ones: flat, then rising, then a plateau."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browsing import Opened
from playwright.sync_api import Browser, sync_playwright
from synthetic_runs import MODELS, capitals, probed_run, write_page

from llmprobe.reporting.charts.curves import curves
from llmprobe.reporting.charts.heatmaps import heatmap
from llmprobe.results.results import Results

Tables = tuple[pd.DataFrame, pd.DataFrame]

PROBE_POINTS = (
    "input conv1_preact conv1_postact conv1_postpool conv2_preact conv2_postact conv2_postpool "
    "fc1_preact fc1_postact logits"
).split()


def make_tables(
    blocks: Mapping[str, int],
    datasets: Sequence[str],
    n_classes: int = 2,
    majority: float = 0.5,
) -> Tables:
    """``results`` and ``summary`` of models, given with their number of blocks, on ``datasets``.

    The last dataset of several is not above chance at any layer.
    """
    rng = np.random.default_rng(0)
    results, summary = [], []
    for model, n_blocks in blocks.items():
        for number, dataset in enumerate(datasets):
            depth = np.arange(n_blocks + 1) / max(n_blocks, 1)
            null = number > 0 and number == len(datasets) - 1
            height = 0 if null else (0.95 - majority) * rng.uniform(0.5, 1)
            rise = 1 / (1 + np.exp(-14 * (depth - rng.uniform(0.2, 0.7))))
            accuracy = majority + height * rise * (1 - 0.15 * depth**6)
            accuracy = accuracy + rng.normal(0, 0.012, n_blocks + 1)
            layers = pd.DataFrame(
                {
                    "model": model,
                    "dataset": dataset,
                    "site": "residual",
                    "position": "last",
                    "layer": np.arange(n_blocks + 1),
                    "depth": depth,
                    "probe": "logistic",
                    "n_examples": 1000,
                    "n_classes": n_classes,
                    "n_groups": 500,
                    "main_score": "accuracy",
                    "permutations": 100,
                    "l2": 10.0,
                    "accuracy": accuracy,
                    "accuracy_low": accuracy - 0.03,
                    "accuracy_high": accuracy + 0.03,
                    "balanced_accuracy": accuracy - 0.004,
                    "f1": accuracy - 0.01,
                    "auroc": np.clip(0.5 + 1.08 * (accuracy - majority), 0, 1),
                    "log_loss": 1.2 - accuracy,
                    "majority_accuracy": majority,
                    "control_accuracy": 0.5,
                    "selectivity": accuracy - 0.5,
                    "p_value": 0.01,
                }
            )
            peak = int(accuracy.argmax())
            results.append(layers)
            summary.append(
                {
                    "model": model,
                    "parameters": 135_000_000,
                    "layers": n_blocks,
                    "hidden_size": 576,
                    "dataset": dataset,
                    "position": "last",
                    "n_examples": 1000,
                    "classes": json.dumps([str(label) for label in range(n_classes)]),
                    "main_score": "accuracy",
                    "permutations": 100,
                    "peak_layer": peak,
                    "peak_score": accuracy[peak],
                    "peak_accuracy": accuracy[peak],
                    "peak_p_value": 0.4 if null else 0.0099,
                    "converging_layer": peak // 2,
                    "jump_layer": np.nan if null else peak // 3,
                    "converging_depth": peak // 2 / max(n_blocks, 1),
                    "jump_depth": np.nan if null else peak // 3 / max(n_blocks, 1),
                    "majority_accuracy": majority,
                    "bag_of_words_accuracy": majority + 0.01 + 0.05 * (number % 3),
                    "random_weights_accuracy": majority + 0.03,
                    "seconds_extract": 41.2,
                    "seconds_probe": 7.5,
                    "tokens": 12000,
                    "unique_tokens": 3100,
                }
            )
    return pd.concat(results, ignore_index=True), pd.DataFrame(summary)


def make_network_tables(
    names: Sequence[str] = PROBE_POINTS, datasets: Sequence[str] = ("mnist",)
) -> Tables:
    """``results`` and ``summary`` of a plain network before and after training."""
    last = len(names) - 1
    results, summary = make_tables({"trained": last, "untrained": last}, datasets, 10, 0.1)
    results["layer_name"] = [names[layer] for layer in results["layer"]]
    results["site"] = results["position"] = summary["position"] = ""
    results[["p_value", "control_accuracy", "selectivity"]] = np.nan
    of_language_models = ["hidden_size", "peak_p_value", "bag_of_words_accuracy"]
    summary[[*of_language_models, "tokens", "unique_tokens", "random_weights_accuracy"]] = np.nan
    return results, summary


@pytest.fixture(scope="session")
def network_tables() -> Callable[..., Tables]:
    """The maker of tables whose layers have names."""
    return make_network_tables


@pytest.fixture(scope="session")
def tables() -> Callable[..., Tables]:
    """The maker of tables."""
    return make_tables


@pytest.fixture
def two_by_two() -> Tables:
    """Two models of 30 and 18 blocks on two datasets, the second of which is not readable."""
    return make_tables({"smollm2-135m": 30, "gemma-3-270m": 18}, ["capitals", "coin_flip"])


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two models on two datasets, the second of which cannot be read."""
    out = tmp_path_factory.mktemp("run")
    return probed_run(out, MODELS, [capitals(), capitals("coin_flip", 80)])


@pytest.fixture(scope="session")
def trial_page(trial: Results) -> Path:
    """The page of that run."""
    figures = {
        "heatmap_accuracy": heatmap(trial.curves),
        "curves": curves(trial),
    }
    return write_page(trial.folder / "report.html", trial, figures)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, where it is installed; CI has to have it."""
    path = shutil.which("chromium")
    if path is None:
        reason = "chromium is not installed, so no test sees the page in a browser"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Opens a page at some width; at the end, it must have kept quiet and to itself."""
    pages = []

    def open_page(path: Path, width: int = 1400, **options: Any) -> Opened:
        pages.append(Opened.open(browser, path, width, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()
        page.assert_quiet()


@pytest.fixture(scope="package")
def kept(browser: Browser) -> Iterator[Callable[[Path, int], Opened]]:
    """The pages that tests share, by their path and width."""
    pages: dict[tuple[Path, int], Opened] = {}

    def page_of(path: Path, width: int) -> Opened:
        if (path, width) not in pages:
            pages[path, width] = Opened.open(browser, path, width)
        return pages[path, width]

    yield page_of
    for page in pages.values():
        page.context.close()


@pytest.fixture
def shown(kept: Callable[[Path, int], Opened]) -> Iterator[Callable[..., Opened]]:
    """As ``opened``, but of each path and width one page, whose controls begin anew."""
    used = []

    def show(path: Path, width: int = 1400) -> Opened:
        used.append(kept(path, width))
        used[-1].reset()
        return used[-1]

    yield show
    for page in used:
        page.assert_quiet()
