"""Figures: one function each, which registers itself; imports are in the order of the page."""

from llmprobe.reporting.charts import heatmaps, depth, curves, said_used, doses, projections  # noqa: F401, I001
