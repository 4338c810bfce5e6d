"""Hidden states that another engine wrote: a run has of them all that it has of a model's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from toy import QUICK, write_table

import llmprobe
from llmprobe.cli.main import main

N, LAYERS, WIDTH = 40, 3, 6
ROWS = [f"row-{i}" for i in range(N)]


@pytest.fixture
def states() -> np.ndarray:
    """[n, layers, d], of which layer 1 tells the label."""
    states = np.random.default_rng(0).normal(size=(N, LAYERS, WIDTH)).astype(np.float32)
    states[:, 1, 0] += 3 * (np.arange(N) % 2)
    return states


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    """``run(path=…)``: the exit code of probing these activations of the toy table."""
    table = pd.read_csv(write_table(tmp_path / "toy.csv")).assign(row=ROWS)
    table.to_csv(tmp_path / "toy.csv", index=False)

    def run(*words: str, command: str = "probe", **activations: Any) -> int:
        config = {
            "activations": activations, "datasets": ["toy.csv"], "probe": QUICK,
            "report": {"traces": 0},
        }  # fmt: skip
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        return main([command, str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run"), *words])

    return run


def each_layer(states: np.ndarray, name: str = "layer_{}") -> dict[str, np.ndarray]:
    return {name.format(i): states[:, i] for i in range(LAYERS)}


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def safetensors(path: Path, **arrays: np.ndarray) -> Path:
    save_file({k: torch.as_tensor(v).bfloat16().contiguous() for k, v in arrays.items()}, path)
    return path


def parquet(path: Path, **arrays: np.ndarray) -> Path:
    pd.DataFrame({name: list(array) for name, array in arrays.items()}).to_parquet(path)
    return path


def vllm(folder: Path, states: np.ndarray) -> Path:
    """A file for each request, with other states at the tokens before the last."""
    folder.mkdir()
    for row, state in enumerate(states):
        tokens = torch.cat([torch.full((row % 3, LAYERS, WIDTH), 9.0), torch.tensor(state)[None]])
        ids = torch.arange(len(tokens))
        save_file({"hidden_states": tokens, "token_ids": ids}, folder / f"row-{row}.safetensors")
    return folder


def zarr(folder: Path, states: np.ndarray) -> Path:
    library = pytest.importorskip("zarr")
    library.save_group(str(folder), **each_layer(states))
    return folder


FORMS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "npz of layers": lambda at, s: npz(at / "s.npz", **each_layer(s)),
    "npz of one array": lambda at, s: npz(at / "s.npz", states=s),
    "npz, layers first": lambda at, s: npz(at / "s.npz", states=s.swapaxes(0, 1)),
    "npy": lambda at, s: (np.save(at / "s.npy", s), at / "s.npy")[1],
    "safetensors of layers": lambda at, s: safetensors(at / "s.safetensors", **each_layer(s)),
    "safetensors of one": lambda at, s: safetensors(at / "s.safetensors", hidden=s),
    "parquet": lambda at, s: parquet(at / "s.parquet", **each_layer(s), row=np.array(ROWS)),
    "vllm": lambda at, s: vllm(at / "s", s),
    "zarr": lambda at, s: zarr(at / "s.zarr", s),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_gives_the_numbers_of_its_states(
    form: str, run: Callable[..., int], states: np.ndarray, tmp_path: Path
) -> None:
    assert run(path=FORMS[form](tmp_path, states).name, layer_offset=2) == 0
    table = pd.read_parquet(tmp_path / "run" / "results.parquet")
    if "safetensors" in form:
        states = torch.tensor(states).bfloat16().float().numpy()
    dataset = llmprobe.load_dataset(tmp_path / "toy.csv")
    expected = llmprobe.probe_layers(
        {2 + i: states[:, i] for i in range(LAYERS)}, dataset.labels, dataset.units,
        texts=dataset.texts, progress=False, **QUICK,
    ).table  # fmt: skip
    assert table["model"].unique() == ["s"]
    assert table["layer"].tolist() == [2, 3, 4]
    np.testing.assert_allclose(table["accuracy"], expected["accuracy"])
    np.testing.assert_allclose(table["log_loss"], expected["log_loss"], rtol=1e-5)


def test_a_run_of_states_has_tables_probes_figures_and_a_page(
    run: Callable[..., int],
    states: np.ndarray,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    npz(tmp_path / "s.npz", **each_layer(states))
    with caplog.at_level("INFO", logger="llmprobe"):
        assert run(command="run", path="s.npz", name="engine") == 0
    assert "no token embeddings to compare with, no untrained control, and no traces" in caplog.text
    out = tmp_path / "run"
    for name in ("report.html", "results.csv", "predictions.parquet", "figures/curves.png"):
        assert (out / name).stat().st_size > 0
    probe = llmprobe.load_probe(out / "probes" / "engine" / "toy.safetensors")
    assert probe.best_layer == 1
    assert probe.predict(states[:, 1]).tolist() == pytest.approx(np.arange(N) % 2, abs=1)
    # The config that it leaves is one, and the work is not done again.
    capsys.readouterr()
    with caplog.at_level("INFO", logger="llmprobe"):
        assert main(["probe", str(out / "config.yaml"), "--out", str(out)]) == 0
    assert "engine on toy: already probed" in caplog.text
    assert main(["extract", str(out / "config.yaml")]) == 2
    assert "so there is nothing to extract" in capsys.readouterr().err
    assert main(["run", str(out / "config.yaml"), "--dry-run"]) == 0
    assert "engine: 40 rows of" in capsys.readouterr().out
    assert (
        main(
            [
                "score",
                str(out / "probes/engine/toy.safetensors"),
                "--file",
                str(tmp_path / "toy.csv"),
            ]
        )
        == 2
    )
    assert "no probe of a language model" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["npz", "parquet", "vllm"])
def test_rows_are_found_by_name_in_any_order_and_when_only_some_are_drawn(
    form: str, run: Callable[..., int], states: np.ndarray, tmp_path: Path
) -> None:
    order = np.random.default_rng(1).permutation(N)
    names = np.array(ROWS)[order]
    if form == "npz":
        path = npz(tmp_path / "s.npz", row=names, **each_layer(states[order]))
    elif form == "parquet":
        path = parquet(tmp_path / "s.parquet", row=names, **each_layer(states[order]))
    else:
        path = vllm(tmp_path / "s", states)
    assert run("--limit", "30", path=path.name, join="row") == 0
    table = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert set(table["n_examples"]) == {30}
    assert table.loc[table["accuracy"].idxmax(), "layer"] == 1
    assert table["accuracy"].max() > 0.9


def changed(states: np.ndarray, value: float) -> np.ndarray:
    states = states.copy()
    states[4, 1, 2] = value
    return states


BAD: dict[str, tuple[Callable[[Path, np.ndarray], object], dict[str, Any], str]] = {
    "too few rows": (
        lambda p, s: npz(p / "s.npz", **each_layer(s[:39])), {},
        "s.npz: has 39 rows where there should be 40, one for each row of the table",
    ),
    "layers of unequal rows": (
        lambda p, s: npz(p / "s.npz", layer_0=s[:, 0], layer_1=s[:9, 1]), {},
        "'layer_1' has 9 rows, and 'layer_0' has 40",
    ),
    "rows of three dimensions": (
        lambda p, s: npz(p / "s.npz", states=s[:30]), {}, "has 30 rows where there should be 40"
    ),
    "NaN": (
        lambda p, s: npz(p / "s.npz", **each_layer(changed(s, np.nan))), {},
        "layer 1: 1 of 40 rows have values that are not finite numbers, the first is row 5",
    ),
    "too large for float32": (
        lambda p, s: npz(p / "s.npz", **each_layer(changed(s.astype(float), 1e300))), {},
        "layer 1: 1 of 40 rows have values that are not finite",
    ),
    "objects": (
        lambda p, _: npz(p / "s.npz", layer_0=np.array([{}] * N, dtype=object)), {}, "s.npz: "
    ),
    "pickled layers": (
        lambda p, s: npz(p / "s.npz", layer_0=s.astype(object)[:, 0]), {},
        "'layer_0' has values of type object",
    ),
    "whole numbers": (
        lambda p, s: npz(p / "s.npz", layer_0=s[:, 0].astype(int)), {},
        "'layer_0' has values of type int64; hidden states are float32",
    ),
    "no layers": (
        lambda p, s: npz(p / "s.npz", a=s, b=s), {}, "has no layers (arrays whose names end in"
    ),
    "another key": (
        lambda p, s: npz(p / "s.npz", states=s), {"key": "state"}, "did you mean 'states'?"
    ),
    "two of a layer": (
        lambda p, s: npz(p / "s.npz", mlp_1=s[:, 0], resid_1=s[:, 0]), {},
        "'mlp_1' and 'resid_1' are both layer 1; say what the names of one kind begin with",
    ),
    "a layer below 0": (
        lambda p, s: npz(p / "s.npz", states=s), {"layer_offset": -1}, "there is a layer -1"
    ),
    "two numbers for three layers": (
        lambda p, s: npz(p / "s.npz", states=s), {"layers": [1, 2]},
        "has 3 layers, and `layers:` has 2 numbers",
    ),
    "as many layers as rows": (
        lambda p, _: npz(p / "s.npz", states=np.zeros((N, N, 2))), {},
        "say `layer_axis: 1` or `layer_axis: 0`",
    ),
    "no file": (lambda _p, _: None, {}, "s.npz: there is no such file or folder"),
    "damaged": (lambda p, _: (p / "s.npz").write_bytes(b"PK\x03\x04"), {}, "s.npz: cannot be read"),
    "another kind": (
        lambda p, _: (p / "s.pt").write_bytes(b"x"), {"path": "s.pt"}, "states are read from .npz"
    ),
    "an empty folder": (
        lambda p, _: (p / "s").mkdir(), {"path": "s"}, "no .safetensors file is in it"
    ),
    "another engine's folder": (
        lambda p, s: ((p / "s").mkdir(), safetensors(p / "s" / "a.safetensors", x=s)),
        {"path": "s"}, "has no hidden_states and token_ids, as vLLM writes",
    ),
    "requests without a file": (
        lambda p, s: vllm(p / "s", s[:39]), {"path": "s", "join": "row"},
        "row 40 of toy is called 'row-39', and no row of the states is",
    ),
    "names twice": (
        lambda p, s: npz(p / "s.npz", row=np.array(["row-0"] * N), states=s), {"join": "row"},
        "'row-0' names more than one row",
    ),
    "no such column": (
        lambda p, s: npz(p / "s.npz", name=np.array(ROWS), states=s), {"join": "name"},
        "join 'name': toy has no such column; it has row",
    ),
    "lists of unequal length": (
        lambda p, _: pd.DataFrame({"layer_0": [[1.0, 2.0]] * 39 + [[1.0]]}).to_parquet(
            p / "s.parquet"
        ),
        {"path": "s.parquet"}, "the lists in column 'layer_0' have 2 and 1 numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_states_that_do_not_fit_are_named_in_a_sentence(
    bad: str,
    run: Callable[..., int],
    states: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write, options, message = BAD[bad]
    write(tmp_path, states)
    assert run(**({"path": "s.npz"} | options)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llmprobe:")]
    assert len(said) == 1
    assert message in said[0]


def test_a_config_has_models_or_activations(tmp_path: Path, capsys) -> None:
    write_table(tmp_path / "toy.csv")
    for sections, message in (
        ({}, "models: missing"),
        ({"models": ["m"], "activations": "s.npz"}, "has models and activations"),
        ({"activations": {"path": "s.npz", "offset": 1}}, "activations.0.offset: unknown key"),
        (
            {"activations": "s.npz", "extract": {"position": ["last", "mean"]}},
            "activations from elsewhere are of one position",
        ),
        ({"activations": {"layers": [1, 1], "path": "s.npz"}}, "a number occurs twice"),
    ):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"datasets": ["toy.csv"]} | sections))
        assert main(["validate", str(tmp_path / "c.yaml")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("zarr") is not None, reason="it is there")
def test_a_zarr_folder_without_its_library_is_said_in_a_sentence(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr" / "zarr.json").write_text("{}")
    assert run(path="s.zarr") == 2
    assert "a Zarr folder, which needs a library: pip install zarr" in capsys.readouterr().err


def test_pickled_chunks_of_a_zarr_folder_are_never_read(
    run: Callable[..., int], tmp_path: Path, states: np.ndarray, capsys
) -> None:
    folder = zarr(tmp_path / "s.zarr", states)
    (folder / ".zarray").write_text('{"filters": [{"id": "p\\u0069ckle"}]}')
    assert run(path="s.zarr") == 2
    assert "has pickled values, which are never read" in capsys.readouterr().err
