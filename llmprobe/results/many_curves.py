"""P-values of a run with many curves, some of which are small by luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from llmprobe.results.curve import SURE
from llmprobe.results.results import Results

ENOUGH_AS_GOOD = 10
"""Once so many shuffles do as well as the observed labels, more shuffles would tell little."""
STEP = 4
"""Each round has this many times as many shuffles as the one before."""


def of_one_run(parts: Sequence[Results]) -> Results:
    """Put the parts of a run together, with p-values that allow for how many curves it has."""
    results = Results.concatenate(parts)
    return replace(results, summary=with_adjusted_p_values(results.summary))


def with_adjusted_p_values(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the summary of a run with ``peak_p_value_adjusted``.

    It is the lowest false discovery rate at which the curve is among those of the run that are
    called above chance (Benjamini & Hochberg 1995). Curves without a p-value are not counted.
    """
    p = summary["peak_p_value"].to_numpy(float)
    adjusted, tested = p.copy(), np.isfinite(p)
    if tested.any():
        from scipy.stats import false_discovery_control  # type: ignore[import-untyped]

        adjusted[tested] = false_discovery_control(p[tested])
    return summary.assign(peak_p_value_adjusted=adjusted)


def more_permutations(summary: pd.DataFrame) -> np.ndarray:
    """Return to how many shuffles each curve should go on, 0 where it need not. [curves] int

    A curve goes on if its adjusted p-value is above 0.05, but so few shuffles did as well that more
    could make it smaller (Besag & Clifford 1991 stop after a fixed number of those, too). No curve
    goes on past the number with which the smallest p-value would do for a curve that alone is above
    chance: 20 for each curve of the run.

    Parameters
    ----------
    summary
        The summary of the run, with adjusted p-values.
    """
    p, adjusted, shuffles = (
        summary[name].to_numpy(float)
        for name in ("peak_p_value", "peak_p_value_adjusted", "permutations")
    )
    as_good = np.rint(p * (shuffles + 1)) - 1
    most = np.ceil(np.isfinite(p).sum() / SURE)
    # Fewer than 19 shuffles cannot give 0.05, so no such p-value was wanted.
    goes_on = (adjusted > SURE) & (as_good < ENOUGH_AS_GOOD) & (shuffles >= 19) & (shuffles < most)
    return np.where(goes_on, np.minimum(STEP * shuffles, most), 0).astype(int)
