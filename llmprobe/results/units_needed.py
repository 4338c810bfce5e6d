"""How many independent examples it would take to answer what is unclear."""

from __future__ import annotations

from math import ceil, inf, isnan, log10, nan
from statistics import NormalDist

import numpy as np

from llmprobe.results.curve import Curve

POWER = 0.8
"""The probability that the number of units that an unclear answer names would be enough."""
NORMAL = NormalDist()
ENDS = NORMAL.inv_cdf(0.975)
"""Standard errors from an estimate to the ends of its 95 % interval."""
ENOUGH = ENDS + NORMAL.inv_cdf(POWER)
"""Standard errors between an effect and the value to be excluded, two-sided at 0.05."""


def units_needed(units: float, error: float, distance: float, errors: float = ENOUGH) -> float:
    """Compute how many units it would take to tell an effect from a value at some distance.

    ``units * (errors * error / distance) ** 2``: a standard error shrinks with the root of the
    number of independent examples, and an effect that lies ``errors`` = 1.96 + 0.84 of them away
    is found 80 % of the time at 0.05, if it is as large as it seems here.

    Parameters
    ----------
    units
        How many units there are.
    error
        The standard error with these.
    distance
        From the effect to the value to be excluded. The answer is infinite where it is not
        positive.
    """
    return units * (errors * error / distance) ** 2 if distance > 0 else inf


def units_of(curve: Curve) -> float:
    """Return how many independent examples there are, NaN where that is not known."""
    units = float(np.nanmax(curve.column("n_groups"), initial=-1))
    return nan if units < 0 else units


def fewest(units: float, *needed: float) -> float:
    """Return the least of some finite numbers that is more than ``units``; infinity without one."""
    return min((number for number in needed if units < number < inf), default=inf)


def would_tell(units: float, needed: float) -> str:
    """Return a sentence on how many units it would take; empty where that is not known."""
    if isnan(needed) or needed == inf or isnan(units):
        return ""
    return f" About {rounded_up(needed)} independent examples would tell (there are {units:,.0f})."


def rounded_up(number: float) -> str:
    """Return a number rounded up, to two significant digits if it is over 100: ``3,500``."""
    step = 10 ** (ceil(log10(number)) - 2) if number > 100 else 1
    return f"{ceil(number / step) * step:,.0f}"
