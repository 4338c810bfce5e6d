"""Each recipe of CONTRIBUTING.md and docs/datasets.md works when installed as a package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from toy import QUICK, write_config, write_table

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("CONTRIBUTING.md", "docs/datasets.md")
RECIPES = dict(
    recipe
    for document in DOCUMENTS
    for recipe in re.findall(
        r"^```python\n# (\w+)\.py\n(.*?)^```$",
        (ROOT / document).read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all files of the recipes, and what pip leaves of their entry points."""
    site = tmp_path_factory.mktemp("site")
    for name, code in RECIPES.items():
        (site / f"{name}.py").write_text(code, encoding="utf-8")
    info = site / "recipes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recipes\nVersion: 1.0\n")
    entries = [f"{name} = {name}" for name in RECIPES]
    (info / "entry_points.txt").write_text("\n".join(["[llmprobe.plugins]", *entries]))
    return site


@pytest.fixture
def llmprobe(site: Path) -> Callable[..., str]:
    """``llmprobe("--help")``: what the command prints, which must not complain of a plugin."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}

    def llmprobe(*words: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llmprobe", *map(str, words)],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "is left out" not in done.stderr
        return done.stdout

    return llmprobe


def test_what_the_recipes_add_is_there(
    llmprobe: Callable[..., str], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    assert "best      Print the best layer of each model and dataset." in llmprobe("--help")
    listed = llmprobe("ls", "datasets")
    assert "negations" in listed
    assert "riddles" in listed
    config = write_config(
        tmp_path / "run.yaml", tiny_model("llama"), write_table(tmp_path / "toy.csv"),
        extract={"site": "block_input"}, probe={**QUICK, "kind": "sceptical"},
    )  # fmt: skip
    out = tmp_path / "out"
    llmprobe("run", config, "--out", out)
    results = pd.read_csv(out / "results.csv")
    assert set(results["probe"]) == {"sceptical"}
    assert set(results["site"]) == {"block_input"}
    assert results["sensitivity_high"].between(0, 1).all()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '"sensitivity"' in page
    assert "The best score of each curve." in page
    for figure in ("best_scores", "heatmap_sensitivity"):
        assert (out / "figures" / f"{figure}.svg").is_file()
    assert llmprobe("best", out).startswith("tiny-llama toy ")


def test_every_thing_that_can_be_added_has_a_recipe() -> None:
    assert {"sensitivity", "best_scores", "block_input", "sceptical", "best"} <= RECIPES.keys()
    assert {"negations", "riddles"} <= RECIPES.keys()
