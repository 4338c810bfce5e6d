"""The estimate of probing: what it counts, and how it grows."""

from __future__ import annotations

import numpy as np
import pytest

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing import tasks
from llmprobe.probing.cost import columns, probing_seconds

SPEED = 1e11


def seconds(
    rows: int = 1000, hidden_size: int = 500, layers: int = 40, classes: int = 2, **options: object
) -> float:
    config = ProbeConfig.model_validate(options)
    return probing_seconds(config, rows, hidden_size, layers, classes, SPEED)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"permutations": 0},
        {"folds": 3, "repeats": 2, "description_length": False},
        {"controls": ["majority"], "l2": 1.0},
    ],
)
def test_as_many_columns_are_counted_as_tasks_have_problems(options: dict[str, object]) -> None:
    config = ProbeConfig.model_validate({"permutations": 20, **options})
    labels = np.arange(400) % 2
    built = tasks.build_tasks(labels, None, config, "toy")
    every = [built.observed, *built.shuffled, *built.inner, *built.control,
             *built.beside_control, *built.online]  # fmt: skip
    problems = sum(len(task.train) for task in every) + len(built.train)
    assert columns(config, 2) == pytest.approx(problems, rel=0.15)


def test_more_work_takes_longer() -> None:
    assert seconds(layers=80) == pytest.approx(2 * seconds(layers=40), rel=0.05)
    assert seconds(classes=4) == pytest.approx(4 * seconds(), rel=0.5)
    # What a layer has beside its size makes growth a little slower than the number of cells.
    assert 1.3 < seconds(rows=2000) / seconds() < 2
    assert seconds(rows=2000, hidden_size=4000) < 4 * seconds(hidden_size=4000)
    assert seconds(hidden_size=1000) == seconds(hidden_size=5000)
    for option, less in [("permutations", 0), ("description_length", False), ("controls", [])]:
        assert seconds(**{option: less}) < seconds()
    assert seconds(kind="mass_mean") < seconds()


def test_a_machine_twice_as_fast_takes_half_as_long() -> None:
    config = ProbeConfig()
    of_speed = [probing_seconds(config, 1000, 500, 10, 2, speed) for speed in (SPEED, 2 * SPEED)]
    assert of_speed[0] == pytest.approx(2 * of_speed[1])
