"""What the script of the page draws: a run's tables in one mapping, as small as they can be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from llmprobe.ground.text import number_text
from llmprobe.reporting.page.examples import ExampleSample, points, sample_examples
from llmprobe.reporting.page.tables import whole_text
from llmprobe.results.columns import CURVE
from llmprobe.results.curve import Curve, by_model
from llmprobe.results.metrics import METRICS
from llmprobe.results.predictions import LayerScores, scores_by_layer
from llmprobe.results.questions import Evidence
from llmprobe.results.results import Results
from llmprobe.results.transfer import TRANSFER_MARKS, as_aurocs

MOST_CELLS = 6000
"""Layers × curves up to which each has its confusion, its calibration and all of its scores."""
MOST_CONFUSED = 12
"""Classes up to which a confusion matrix is shown."""
MOST_CHARACTERS = 400
"""The most characters of a text on the page."""
MARKS = {
    "stays_above_half_depth": ("above half from here", "▷", "triangle-right"),
    "falls_below_half_depth": ("below half from here", "◁", "triangle-left"),
    "jump_layer": ("jump", "◇", "diamond"),
    "converging_layer": ("converged", "□", "square"),
    "peak_layer": ("best layer", "○", "circle"),
    "highest_layer": ("highest score", "△", "triangle-up"),
}
"""Column of the summary (``highest_layer``: the layer with the highest score, if that is not the
best one) -> its name beside the curves, its sign in text, its shape for Vega."""
ASKED = {
    "said_auroc": "said (AUROC of the model’s own head)",
    "used_share": "used (share of the gap that moves)",
    "linearity_gap": "more that is not linear",
}
"""Columns of the results with what else was asked of a layer -> their names."""


def payload(run: Results) -> dict[str, Any]:
    """Return the metrics, marks, models, datasets with their examples, and curves of a run.

    A dataset that was read at several positions appears once for each, named with the position.

    Arrays of small numbers are bytes in base64; ``NaN`` is null. Of many examples a random part is
    drawn; those that are hardest for some model are listed too.

    Parameters
    ----------
    run
        Its curves without any layer are left out.
    """
    judged = [pair for pair in zip(run.curves, run.evidence, strict=True) if len(pair[0].rows)]
    curves = [curve for curve, _ in judged]
    models = by_model(curves)
    datasets = {curve.title: curve.dataset for curve in curves}
    scores = _scores(curves, run.predictions)
    samples = sample_examples(scores)
    detailed = sum(len(curve.rows) for curve in curves) <= MOST_CELLS
    abouts = descriptions(run.environment["datasets"])
    return {
        "metrics": [
            {key: getattr(metric, key) for key in _OF_A_METRIC}
            for metric in METRICS.values()
            if any(curve.has(metric) for curve in curves)
        ],
        "asked": [
            {"name": name, "label": label}
            for name, label in ASKED.items()
            if any(np.isfinite(curve.column(name)).any() for curve in curves)
        ],
        "marks": [{"title": title, "sign": sign, "shape": shape} for title, sign, shape
                  in MARKS.values()],
        "models": [
            {"name": model, "parameters": _number(group[0].number("parameters"))}
            for model, group in models.items()
        ],
        "datasets": [
            {"name": title, "about": abouts.get(dataset, "")}
            | _dataset(samples.get(title), _texts(run, dataset), run.class_names(dataset))
            for title, dataset in datasets.items()
        ],
        "curves": [
            {
                "model": list(models).index(curve.model),
                "dataset": list(datasets).index(curve.title),
                **_curve(curve, evidence, detailed),
                **_points(
                    scores.get((curve.model, curve.title)), samples.get(curve.title), detailed
                ),
            }
            for curve, evidence in judged
        ],
        "transfer": _transfer(run),
    }  # fmt: skip


def _transfer(run: Results) -> list[dict[str, Any]]:
    """Return the train × test matrix of each model and position, at each layer."""
    matrix = run.transfer_matrix
    if matrix is None:
        return []
    same = matrix.layers[matrix.layers["train_layer"] == matrix.layers["test_layer"]]
    several = matrix.table["position"].nunique() > 1
    matrices = []
    for (model, position), cells in matrix.table.groupby(["model", "position"], sort=False):
        rows = same[(same["model"] == model) & (same["position"] == position)]
        layers = sorted(set(rows["test_layer"]))
        train, test = (pd.unique(cells[side]).tolist() for side in ("train", "test"))
        known = dict(
            zip(
                rows[["train", "test", "test_layer"]].itertuples(index=False, name=None),
                as_aurocs(rows),
                strict=True,
            )
        )
        of = {*cells["train_dataset"].dropna(), *cells["test_dataset"].dropna()}
        reads = cells.set_index(["train", "test"])["reads"].map(TRANSFER_MARKS).to_dict()
        best = cells.groupby("train", sort=False)["train_layer"].first()
        matrices.append(
            {
                "model": f"{model} @ {position}" if several else model,
                "of": of.pop() if len(of) == 1 else "",
                "train": train, "test": test, "layers": layers,
                "best": [layers.index(best[name]) for name in train],
                "marks": [[reads.get((a, b), "") for b in test] for a in train],
                "scores": [
                    [[_number(known.get((a, b, layer), np.nan)) for b in test] for a in train]
                    for layer in layers
                ],
            }
        )  # fmt: skip
    return matrices


def _scores(
    curves: Sequence[Curve], predictions: pd.DataFrame
) -> dict[tuple[str, str], LayerScores]:
    """Return what layers say of each example, by model and title, for curves with predictions."""
    if predictions.empty:
        return {}
    tables = dict(list(predictions.groupby(list(CURVE), sort=False)))
    scores = {
        (curve.model, curve.title): scores_by_layer(curve, tables[curve.key])
        for curve in curves
        if curve.key in tables
    }
    return {key: of_curve for key, of_curve in scores.items() if of_curve is not None}


_OF_A_METRIC = "name label form heatmap chance_name perfect".split()


def descriptions(datasets: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what each dataset asks, by name; empty if that is not known."""
    return {str(facts.get("name")): str(facts.get("description") or "") for facts in datasets}


def _curve(curve: Curve, evidence: Evidence, detailed: bool) -> dict[str, Any]:
    """Return the layers of a curve, their scores, and what speaks against it.

    Without details, metrics that are neither shown as colours nor of the protocol are left out.
    """
    metrics = [metric for metric in METRICS.values() if curve.has(metric)]
    coloured = [metric for metric in metrics if metric.heatmap]
    return {
        "metric": curve.metric.name,
        "layers": curve.layers,
        "names": curve.names,
        "depths": _numbers(curve.depths),
        "scores": {
            column: _numbers(values)
            for metric in metrics
            if detailed or metric.heatmap or metric.compute is None
            for column in metric.columns
            if np.isfinite(values := curve.column(column)).any()
        }
        | {
            column: _numbers(values)
            for name in ASKED
            for column in (name, f"{name}_low", f"{name}_high")
            if np.isfinite(values := curve.column(column)).any()
        },
        "chances": {metric.name: _number(curve.chance(metric)) for metric in coloured},
        "best": {metric.name: curve.best(metric) for metric in coloured},
        "bag_of_words": _number(curve.rival("bag_of_words")),
        "stays_above_half": _number(curve.shown("stays_above_half_depth")),
        "marks": [_mark(curve, name) for name in MARKS if np.isfinite(_marked(curve, name))],
        "readable": evidence.questions["above_chance"].answer == "yes",
        "doubts": evidence.doubts,
    }


def _marked(curve: Curve, name: str) -> float:
    """Return the layer or depth that has a mark; NaN if it is not shown."""
    highest = curve.highest_elsewhere if curve.above_chance else None
    if name != "highest_layer":
        return curve.shown(name)
    return np.nan if highest is None else float(curve.layers[highest])


def _mark(curve: Curve, name: str) -> dict[str, Any]:
    """Return where a mark stands on a curve."""
    value, is_depth = _marked(curve, name), name.endswith("depth")
    depth = value if is_depth else value / max(curve.blocks or curve.layers[-1], 1)
    return {
        "mark": MARKS[name][0],
        "depth": _number(depth),
        "score": _number(np.interp(depth, curve.depths, curve.column(curve.metric.name))),
        "place": f"depth {number_text(value)}" if is_depth else f"layer {whole_text(value)}",
    }


def _points(
    scores: LayerScores | None, sample: ExampleSample | None, detailed: bool
) -> dict[str, Any]:
    """Return the points, confusion and calibration of a curve whose examples the page knows."""
    if scores is None or sample is None or not sample.fits(scores):
        return {}
    of_curve: dict[str, Any] = {"points": points(scores, sample.rows)}
    if detailed and 2 <= len(scores.classes) <= MOST_CONFUSED:
        of_curve["confusion"] = scores.confusion().tolist()
    if detailed and scores.classes:
        of_curve["calibration"] = [
            [[round(mean, 3), round(share, 3), n] for mean, share, n in layer]
            for layer in scores.calibration()
        ]
    return of_curve


def as_json(mapping: Mapping[str, Any]) -> str:
    """Return JSON that can stand in a script element: no text in it can end that element."""
    text = json.dumps(mapping, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _texts(run: Results, dataset: str) -> pd.DataFrame:
    """Return the examples of a dataset, as far as they are known."""
    return run.examples[run.examples["dataset"] == dataset] if len(run.examples) else run.examples


def _dataset(
    sample: ExampleSample | None, texts: pd.DataFrame, names: Mapping[str, str]
) -> dict[str, Any]:
    """Return the classes of a dataset, by name, and the examples that are drawn or listed."""
    if sample is None:
        return {"classes": [], "n": 0, "examples": None}
    listed: dict[str, Any] = {
        "number": sample.examples.tolist(),
        "label": [names.get(label, label) for label in sample.labels.tolist()],
        "drawn": sample.n_drawn,
    }
    if len(texts):
        rows = texts.set_index("example").reindex(sample.examples)
        for column in ("text", "group"):
            if rows[column].notna().any():
                listed[column] = [_clipped(value) for value in rows[column]]
        fields = [_mapping(value) for value in rows["fields"]]
        keys = dict.fromkeys(key for record in fields for key in record)
        listed["fields"] = {
            key: [_clipped(record.get(key, "")) for record in fields] for key in keys
        }
    classes = [names.get(label, label) for label in sample.scores.classes]
    return {"classes": classes, "n": sample.n, "examples": listed}


def _mapping(value: Any) -> dict[str, Any]:
    """Return what a cell of ``fields`` holds; nothing if it is damaged."""
    try:
        mapping = json.loads(value)
    except (TypeError, ValueError):
        return {}
    return mapping if isinstance(mapping, dict) else {}


def _clipped(value: Any) -> str:
    """Return a text, without its middle if it is long."""
    text = "" if value is None or value is pd.NA or value != value else str(value)
    # It may have half of a surrogate pair, which a file cannot hold.
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]} … [{len(text) - 2 * half:,} more characters] … {text[-half:]}"


def _number(value: float) -> float | int | None:
    """Round a number to five digits, unless it would then be shown as another number.

    A number that is not finite is null.
    """
    if not np.isfinite(value):
        return None
    if float(value).is_integer():
        return int(value)
    rounded = float(f"{value:.5g}")
    same = all(f"{rounded:.{digits}f}" == f"{value:.{digits}f}" for digits in (1, 2, 3))
    return rounded if same else float(value)


def _numbers(values: np.ndarray) -> list[float | int | None]:
    return [_number(value) for value in values]
