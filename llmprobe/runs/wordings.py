"""Which datasets of one or several runs have the same examples in different wordings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

_WORDING = {"perturb", "template", "alias", "as", "classes"}
"""Keys of a dataset's config that change only its wording or names."""


def wordings(datasets: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Find, for each dataset, the first one with the same examples, in any wording.

    Parameters
    ----------
    datasets
        The name of each dataset in tables, and its config as a mapping.

    Returns
    -------
    The name of the first dataset with the same examples, by the name of each dataset.
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
