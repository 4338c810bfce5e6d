"""What the script of the page draws: a run's tables as small as they can be, in one mapping."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from llmprobe.reporting.page.examples import Drawn, examples_drawn, scores_by_layer
from llmprobe.reporting.verdicts import Verdict
from llmprobe.results.peaks import Peak, layer_names, main_probe, main_score
from llmprobe.results.results import Results

MOST_CELLS = 6000
"""Layers × curves up to which each has its confusion, its calibration and all of its scores."""
_MAIN_SCORES = (
    *("accuracy", "accuracy_low", "accuracy_high", "r2", "r2_low", "r2_high", "auroc"),
    *("balanced_accuracy", "control_accuracy", "selectivity", "random_weights_accuracy", "p_value"),
)
_NAMES = ("model", "dataset", "site", "position", "probe", "layer_name")


def payload(run: Results, found: Sequence[Peak], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Models, datasets with their examples, and curves with their scores, points and peaks.

    Arrays of small numbers are bytes in base64; ``NaN`` is null. Of many examples a random part is
    drawn, and listed besides are those that are hardest for some model.
    """
    rows = main_probe(run.table)
    models, datasets = list(rows["model"].unique()), list(rows["dataset"].unique())
    detailed = len(rows) <= MOST_CELLS
    columns = [
        column
        for column in rows.columns
        if column not in _NAMES
        and rows[column].notna().any()
        and (detailed or column in _MAIN_SCORES)
    ]
    scores = {
        key: its
        for key, table in _by_curve(run.predictions)
        if (its := scores_by_layer(table)) is not None
    }
    drawn = examples_drawn(scores)
    judged = {
        (peak.model, peak.dataset): (peak, said, row)
        for peak, said, row in zip(found, verdicts, run.summary.to_dict("records"), strict=True)
    }
    abouts = descriptions(run.environment["datasets"])
    curves = []
    for key, layers in _by_curve(rows):
        model, dataset = key
        curve = {
            "model": models.index(model),
            "dataset": datasets.index(dataset),
            **_layers(layers.sort_values("layer"), columns),
            **(_judged(*judged[key]) if key in judged else _UNJUDGED),
        }
        its, points = scores.get(key), drawn.get(dataset)
        if its is not None and len(its.score) != len(layers):
            its = None  # Of another run, when one was stopped while writing.
        if its is not None and points is not None and points.are_of(its):
            curve["points"] = its.points(points.rows)
            if detailed:
                curve |= {"confusion": its.confusion(), "calibration": its.calibration()}
        curves.append(curve)
    return {
        "metric": main_score(rows),
        "models": [
            {"name": str(model), "parameters": _number(_first(run.summary, model, "parameters"))}
            for model in models
        ],
        "datasets": [
            {"about": abouts.get(name, "")} | _dataset(str(name), drawn.get(name), run.examples)
            for name in datasets
        ],
        "curves": curves,
    }


def descriptions(datasets: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What each dataset asks, where that is known."""
    return {str(facts.get("name")): str(facts.get("description") or "") for facts in datasets}


def _by_curve(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """(model, dataset) and its rows."""
    for (model, dataset), rows in table.groupby(["model", "dataset"], sort=False):
        yield (str(model), str(dataset)), rows


def _layers(layers: pd.DataFrame, columns: Sequence[str]) -> dict[str, Any]:
    """What is known of each layer of a curve."""
    return {
        "layers": [int(layer) for layer in layers["layer"]],
        "names": list(layer_names(layers).values()),
        "depths": _numbers(layers["depth"]),
        "scores": {column: _numbers(layers[column]) for column in columns},
    }


_UNJUDGED: dict[str, Any] = {
    "chance": None, "peak": None, "verdict": None, "against": [], "summary": {}
}  # fmt: skip


def _judged(peak: Peak, said: Verdict, row: Mapping[Any, Any]) -> dict[str, Any]:
    """What is known of a curve as a whole."""
    return {
        "chance": _number(peak.chance),
        "peak": peak.layer,
        "verdict": {"level": said.level, "title": said.title},
        "against": list(said.against),
        "summary": {name: _number(row[name]) for name in _MARKS if pd.notna(row.get(name))},
    }


_MARKS = (
    *("jump_layer", "converging_layer", "half_rise_depth", "half_rise_depth_low"),
    *("half_rise_depth_high", "bag_of_words_accuracy", "bag_of_words_r2", "majority_accuracy"),
    *("random_weights_accuracy", "peak_p_value", "parameters", "layers"),
)


def as_json(mapping: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element: no text in it can end that element."""
    text = json.dumps(mapping, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


MOST_CHARACTERS = 400
"""Of a text on the page."""


def _dataset(name: str, drawn: Drawn | None, examples: pd.DataFrame) -> dict[str, Any]:
    """Its classes and the examples that are drawn or listed."""
    if drawn is None:
        return {"name": name, "classes": [], "n": 0, "examples": None}
    table = examples[examples["dataset"] == name].set_index("example")
    here = table.reindex(drawn.examples)
    listed: dict[str, Any] = {
        "number": drawn.examples.tolist(),
        "label": drawn.labels.tolist(),
        "drawn": drawn.n_drawn,
    }
    if len(table):
        for column in ("text", "group"):
            if here[column].notna().any():
                listed[column] = [_clipped(value) for value in here[column]]
        fields = [_mapping(value) for value in here["fields"]]
        names = list(dict.fromkeys(key for record in fields for key in record))
        listed["fields"] = {
            key: [_clipped(record.get(key, "")) for record in fields] for key in names
        }
    return {"name": name, "classes": drawn.classes, "n": drawn.n, "examples": listed}


def _mapping(value: Any) -> dict[str, Any]:
    """What a cell of ``fields`` holds; nothing where it is damaged."""
    try:
        found = json.loads(value)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _clipped(value: Any) -> str:
    text = "" if value is None or value is pd.NA or value != value else str(value)
    # Half of a surrogate pair is no text that a file can hold.
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]} … [{len(text) - 2 * half:,} more characters] … {text[-half:]}"


def _first(summary: pd.DataFrame, model: str, column: str) -> float:
    values = summary.loc[summary["model"] == model, column].dropna()
    return float(values.iloc[0]) if len(values) else float("nan")


def _number(value: Any) -> float | int | None:
    """To five digits; null for what is not a finite number."""
    number = float(value)
    if not np.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.5g}")


def _numbers(values: pd.Series) -> list[float | int | None]:
    return [_number(value) for value in pd.to_numeric(values, errors="coerce")]
