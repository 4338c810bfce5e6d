"""The kinds of probes by the name that ``probe.kind`` gives them."""

from __future__ import annotations

from typing import Any

from llmprobe.ground.registry import Registry

PROBE_KINDS: Registry[Any] = Registry("kind of probe", homes=["llmprobe.probing.kinds"])
"""All kinds, each a ``probing.kinds.ProbeKind``; typed ``Any``, since its types import torch."""
