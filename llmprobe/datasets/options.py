"""Checks of the options that a dataset is built with; their messages say what is allowed."""

from __future__ import annotations

from collections.abc import Collection

from llmprobe.ground.errors import UserError


def require_whole(
    dataset: str, option: str, value: object, low: int, high: int | None = None
) -> None:
    """Raise ``UserError`` unless an option is a whole number from ``low`` to ``high``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        upwards = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise _refusal(dataset, option, value, f"a whole number {upwards}")


def require_flag(dataset: str, option: str, value: object) -> None:
    """Raise ``UserError`` unless an option is True or False."""
    if not isinstance(value, bool):
        raise _refusal(dataset, option, value, "true or false")


def require_choice(dataset: str, option: str, value: object, allowed: Collection[str]) -> None:
    """Raise ``UserError`` unless an option has one of the allowed values."""
    if value not in allowed:
        raise _refusal(dataset, option, value, ", ".join(allowed))


def _refusal(dataset: str, option: str, value: object, allowed: str) -> UserError:
    return UserError(f"dataset {dataset!r}: {option} is {value!r}; allowed: {allowed}")
