"""Tasks of reasoning-gym as datasets."""

from __future__ import annotations

import sys

import pytest

from llmprobe.datasets.load import load_dataset
from llmprobe.ground.errors import UserError


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UserError, match=r"pip install 'llmprobe\[reasoning\]'"):
        load_dataset("reasoning_gym")


def test_a_task_becomes_texts_with_its_answers_as_classes() -> None:
    pytest.importorskip("reasoning_gym")
    one, again, other = (
        load_dataset("reasoning_gym", n=40, seed=seed, options={"task": "ransom_note"})
        for seed in (0, 0, 1)
    )
    assert len(one) == 40
    assert one.classes.tolist() == ["False", "True"]
    assert one.texts == again.texts != other.texts


def test_wrong_tasks_and_settings_are_refused() -> None:
    pytest.importorskip("reasoning_gym")
    for options, message in (
        ({"task": "ransom_notes"}, "did you mean 'ransom_note'"),
        ({"task": "basic_arithmetic"}, "different answers in 60 examples"),
        ({"settings": {"no_such": 1}}, "no_such"),
    ):
        with pytest.raises(UserError, match=message):
            load_dataset("reasoning_gym", n=60, options=options)
