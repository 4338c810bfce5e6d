"""Finished experiments that tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_images import make_cheap, small_images

from llmprobe.api.networks import probe_network
from llmprobe.cli import sanity as cli
from llmprobe.cli.main import main
from llmprobe.sanity import image_networks


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    make_cheap(monkeypatch)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command does an experiment and draws nothing of it."""
    monkeypatch.setattr(cli, "print_report", lambda _: None)


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def done(once: Once) -> Path:
    """Make a folder for each experiment: ``xor``, ``convnet`` and ``bypass``, on small images."""

    def fill(root: Path) -> None:
        data = ["--data", str(small_images(root / "own")), "--out"]
        with pytest.MonkeyPatch.context() as patch:
            assert main(["sanity", "xor", "--out", str(root / "xor")]) == 0
            make_cheap(patch)
            assert main(["sanity", "mnist", "--quick", *data, str(root / "convnet")]) == 0
            assert (
                main(["sanity", "mnist", "--network", "bypass", *data, str(root / "bypass")]) == 0
            )

    return once("experiments", fill)


@pytest.fixture(scope="session")
def digits(once: Once) -> Path:
    """Do what ``llmprobe sanity mnist`` does without MNIST, but with probes of one penalty."""

    def fill(root: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("LLMPROBE_DATA", raising=False)
            patch.setattr(
                image_networks,
                "probe_network",
                lambda *a, **o: probe_network(*a, **{**o, "l2": 1.0}),
            )
            assert main(["sanity", "mnist", "--out", str(root / "mnist")]) == 0

    return once("digits", fill) / "mnist"
