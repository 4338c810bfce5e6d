"""What is finished of an experiment on images, and goes on from there after an interruption."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from llmprobe.sanity.images import Images

VERSION = 1
"""Raise when the same images and settings would give other numbers."""


def digest(images: Images, seed: int, **settings: Any) -> str:
    """What the names of an experiment's parts end with: of all that its numbers depend on."""
    key = {
        "version": VERSION,
        "torch": torch.__version__,
        "images": images.content_hash,
        "seed": seed,
        **settings,
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
