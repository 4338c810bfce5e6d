"""Datasets that others published, by name; importing this registers them, downloads nothing."""

from llmprobe.datasets.published import (  # noqa: F401
    geometry_of_truth,
    hub,
    jin2024,
    senteval,
)
