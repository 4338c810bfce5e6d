"""Commands of other packages: one file and an entry point, and they are there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmprobe.cli.command import command, commands
from llmprobe.ground.errors import UserError

GREET = """
import argparse

from llmprobe.cli.command import add_out, command

def add_arguments(parser):
    parser.add_argument("name")
    add_out(parser, "greetings")

@command("greet", "Say hello to 100 % of those named.", add_arguments)
def greet(options: argparse.Namespace) -> None:
    print("hello", options.name, options.out)
"""


def install(site: Path, name: str, code: str) -> None:
    """What ``pip install`` leaves of a package with one module and an entry point for it."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[llmprobe.plugins]\n{name} = {name}\n")


def llmprobe(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = [str(site), str(Path(__file__).parents[2])]
    return subprocess.run(
        [sys.executable, "-m", "llmprobe", *words],
        capture_output=True, text=True, check=False, cwd=site,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip


def test_a_command_of_another_package_is_one_file(tmp_path: Path) -> None:
    install(tmp_path, "greetings", GREET)
    listed = llmprobe(tmp_path, "--help").stdout
    assert "greet     Say hello to 100 % of those named." in listed
    assert "run       Extract, probe and report" in listed
    assert llmprobe(tmp_path, "greet", "you", "--out", "o").stdout == "hello you o\n"
    assert "usage: llmprobe greet [-h] [--out DIR] name" in llmprobe(tmp_path, "greet", "-h").stdout


def test_a_broken_plugin_is_one_line_and_every_command_is_there(tmp_path: Path) -> None:
    install(tmp_path, "needy", "import no_such_module")
    install(
        tmp_path, "greedy", "from llmprobe.cli.command import command\ncommand('run', '')(print)"
    )
    done = llmprobe(tmp_path, "--help")
    assert done.returncode == 0
    assert "show      Show a dataset" in done.stdout
    assert sorted(done.stderr.splitlines()) == [
        "plugin greedy (greedy) is left out: UserError: command 'run': there is one of that name "
        "already",
        "plugin needy (needy) is left out: ModuleNotFoundError: No module named 'no_such_module'",
    ]


def test_a_name_is_one_command() -> None:
    shown = commands["show"]
    with pytest.raises(UserError, match="command 'show': there is one of that name already"):
        command("show", "Show something else.")(lambda _: None)
    assert commands["show"] is shown
