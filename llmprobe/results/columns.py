"""The columns of the tables of results."""

from __future__ import annotations

from llmprobe.results.metrics import METRICS

CURVE = ("model", "dataset")
"""What tells curves apart."""

_OF_A_LAYER = (
    *("model", "dataset", "site", "position", "layer", "depth", "probe", "n_examples"),
    *("n_classes", "n_groups", "main_score", "permutations"),
)
_DEPTHS = (
    *("converging_layer", "jump_layer", "converging_depth", "jump_depth"),
    *("half_rise_depth", "full_rise_depth"),
)
_OF_A_CURVE = (
    *("model", "parameters", "layers", "hidden_size", "dataset", "n_examples", "classes"),
    *("main_score", "permutations", "peak_layer", "peak_score", "peak_p_value"),
    *(f"{name}{end}" for name in _DEPTHS for end in ("", "_low", "_high")),
    "majority_accuracy",
    *(f"{what}_{score}" for score in ("accuracy", "r2")
      for what in ("peak", "bag_of_words", "random_weights")),
    *("seconds_extract", "seconds_probe", "tokens", "unique_tokens"),
)  # fmt: skip
_OF_AN_EXAMPLE = (
    *("model", "dataset", "layer", "example", "fold", "label", "predicted", "score"),
    *("along", "across"),
)


def result_columns() -> list[str]:
    """Return the columns of the results: what a layer is of, then each metric with its interval."""
    return [*_OF_A_LAYER, *(column for metric in METRICS.values() for column in metric.columns)]


def columns_of(table: str) -> list[str]:
    """Return the columns that a table of this version has; none for tables that are not known."""
    return {
        "results": result_columns(),
        "summary": list(_OF_A_CURVE),
        "predictions": list(_OF_AN_EXAMPLE),
        "learning_curve": "model dataset site position layer fraction accuracy r2".split(),
        "examples": "dataset example text label group fields".split(),
    }.get(table, [])
