"""Datasets that others published, by name.

Those of llmprobe itself are data in ``sets.yaml``; one of your own is a ``PublishedDataset`` with
its ``KnownFile`` and parser, handed to ``register``.
"""

from llmprobe.datasets.published.entry import PublishedDataset, register
from llmprobe.datasets.published.files import KnownFile, on_github, on_hub, on_web

__all__ = ["KnownFile", "PublishedDataset", "on_github", "on_hub", "on_web", "register"]
