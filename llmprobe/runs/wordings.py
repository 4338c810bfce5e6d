"""Which datasets of a run, or of several, are the same examples in other words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

_WORDING = {"perturb", "template", "alias", "as", "classes"}
"""Keys of a dataset's config that say how its texts are worded, and what it is called."""


def wordings(datasets: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Find, for each dataset, the first that has the same examples, perhaps in other words.

    Parameters
    ----------
    datasets
        What tables call each, and its config as a mapping.

    Returns
    -------
    The name of every dataset, and of the first that has its examples.
    """
    first: dict[str, str] = {}
    found = {}
    for title, config in datasets:
        ignored = _WORDING | ({"name"} if config.get("path") or config.get("hub") else set())
        examples = {
            key: value for key, value in config.items() if key not in ignored and value is not None
        }
        key = json.dumps(examples, sort_keys=True, default=str)
        found[title] = first.setdefault(key, title)
    return found
