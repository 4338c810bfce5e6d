"""A site is one decorated function: config, capture, check, figures and docs follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import WORDS
from toy import write_config, write_table

import llmprobe
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.config.schema import ExtractConfig
from llmprobe.config.sites import SITES, sites_table
from llmprobe.datasets.include import include
from llmprobe.ground.errors import UserError
from llmprobe.models.loading import LoadedModel
from llmprobe.reporting.charts.panels import layer_label
from llmprobe.results.curve import Curve

TOY = '''
import llmprobe

@llmprobe.site("block_input", label="before block", reads="input")
def block_input(model):
    """What enters block *i*."""
    return model.blocks
'''
DATA = llmprobe.ConceptDataset("words", [f"red {w}" for w in WORDS], np.arange(len(WORDS)) % 2)


@pytest.fixture(autouse=True)
def _sites_as_they_were() -> Iterator[None]:
    before = set(SITES)
    yield
    for name in set(SITES) - before:
        SITES.remove(name)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A file outside the package that registers a site."""
    file = tmp_path / "toy_sites.py"
    file.write_text(TOY)
    return file


def test_a_site_of_ones_own_is_extracted_and_listed_where_the_others_are(
    toy: Path, tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_model("llama")
    include(toy)
    states = llmprobe.extract(folder, DATA, site="block_input", cache=False, progress=False)
    stream = llmprobe.extract(folder, DATA, cache=False, progress=False)
    assert states.layers == [1, 2, 3]
    assert states.facts["site"] == "block_input"
    for layer in states.layers:
        assert np.array_equal(states.layer(layer), stream.layer(layer - 1))
    assert ExtractConfig(site="block_input").site == "block_input"
    with pytest.raises(UserError, match="did you mean 'block_input'"):
        llmprobe.extract(folder, DATA, site="block_inputs")
    assert (
        layer_label([Curve(pd.DataFrame({"site": ["block_input"], "layer": [0]}), {})])
        == "layer (before block)"
    )
    assert "| `block_input` | 1 | What enters block *i*. |" in sites_table()
    assert main(["check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "block_input           LlamaDecoderLayer" in said
    assert said.count("block_input") == 2


def test_a_run_knows_the_sites_of_what_it_includes(
    toy: Path, tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "t.csv")
    options = {"include": str(toy), "extract": {"site": "block_input"}, "report": {"traces": 0}}
    config = write_config(tmp_path / "c.yaml", tiny_model("llama"), table, **options)
    out = tmp_path / "run"
    assert main(["run", str(config), "--out", str(out)]) == 0
    assert set(pd.read_parquet(out / "results.parquet")["site"]) == {"block_input"}
    assert "layer (before block)" in (out / "figures" / "curves.svg").read_text()
    assert main(["validate", str(out / "config.yaml")]) == 0
    SITES.remove("block_input")
    assert main(["report", str(out)]) == 0
    assert "block_input" not in SITES  # Reading a run's files runs none of them.
    capsys.readouterr()
    assert main(["validate", str(config), "--set", "extract.site=block_inpt"]) == 2
    assert "site 'block_inpt' is not known; did you mean 'block_input'?" in capsys.readouterr().err


def test_a_site_whose_states_are_not_as_wide_as_the_stream_is_refused(
    tiny_model: Callable[..., Path],
) -> None:
    llmprobe.site("gate")(lambda model: [block.mlp.gate_proj for block in model.blocks])
    message = r"^model 'tiny-llama': gate: layer 1 has states of shape .*, 48\], expected .*, 32\]$"
    with pytest.raises(UserError, match=message):
        llmprobe.extract(tiny_model("llama"), DATA, site="gate", cache=False, progress=False)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (lambda model: [block.moe for block in model.blocks], "no attribute 'moe'"),
        (lambda model: model.blocks[:2], "expected a torch module for each of 3 blocks"),
        (lambda _: [torch.relu] * 3, "expected a torch module for each of 3 blocks"),
    ],
)
def test_a_model_without_the_site_is_named(
    modules: Callable[[LoadedModel], list[object]], message: str, tiny_model: Callable[..., Path]
) -> None:
    llmprobe.site("odd")(modules)
    with pytest.raises(UserError, match=f"^model 'tiny-llama': odd: .*{message}"):
        llmprobe.extract(tiny_model("llama"), DATA, site="odd", cache=False, progress=False)


def test_a_site_has_one_name_and_a_known_one_stays(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="site 'mlp': there is one of that name already"):
        llmprobe.site("mlp")(lambda model: model.blocks)
    (tmp_path / "c.yaml").write_text("models: m\ndatasets: capitals\nextract: {site: mpl}\n")
    with pytest.raises(UserError, match="'mpl' is not allowed: no site; did you mean 'mlp'"):
        load_config(tmp_path / "c.yaml")


def test_the_documentation_has_the_table_of_sites() -> None:
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert sites_table() in text
