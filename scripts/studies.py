"""Makes the tables, figures and pages of docs/studies again, or only their pages.

    python scripts/studies.py make [RUN …]    # runs docs/studies/RUN.yaml, by default every one
    python scripts/studies.py pages           # writes the tables of docs/results into the pages

The run folder is runs/studies/RUN. docs/results/RUN has the columns of its tables that pages can
show, rounded, and made.json: the digest of the config, the date, the machine, and the time that the
run took. Pages have their tables between the comments ``<!-- TABLE RUN -->`` and ``<!-- end -->``,
where TABLE is one of ``TABLES``.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from llmprobe.ground.files import digest, shipped

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

Table = Callable[[Path, str], str]
"""A function from the folder of results and the name of a run to a Markdown table."""

TABLES: dict[str, Table] = {}

KEPT: Mapping[str, Sequence[str]] = {
    "results": (
        "model", "dataset", "layer", "depth", "n_examples", "accuracy", "accuracy_low",
        "accuracy_high", "auroc", "auroc_low", "auroc_high", "f1", "said_auroc", "said_auroc_low",
        "said_auroc_high",
    ),
    "summary": (
        "model", "parameters", "layers", "dataset", "n_examples", "main_score", "peak_layer",
        "peak_score", "peak_p_value_adjusted", "permutations", "converging_layer",
        "stays_above_half_depth", "stays_above_half_depth_low", "stays_above_half_depth_high",
        "majority_accuracy", "bag_of_words_accuracy", "token_embeddings_accuracy", "said_layer",
        "said_auroc", "said_auroc_low", "said_auroc_high", "used_layer", "used_share",
        "used_share_low", "used_share_high", "used_p_value", "used_direction",
    ),
    "transfer": (
        "model", "train", "test", "train_layer", "test_layer", "auroc", "auroc_low", "auroc_high",
        "reads",
    ),
    "transfer_layers": ("model", "train", "test", "train_layer", "test_layer", "auroc"),
    "differences": (
        "model_a", "model_b", "dataset_a", "dataset_b", "n_examples", "accuracy_a", "accuracy_b",
        "difference", "difference_low", "difference_high", "stays_above_half_depth_a",
        "stays_above_half_depth_b", "stays_above_half_depth_difference",
        "stays_above_half_depth_difference_low", "stays_above_half_depth_difference_high",
    ),
}  # fmt: skip
"""The columns of a run's tables that are committed, by table."""


def table(name: str) -> Callable[[Table], Table]:
    """Return a decorator that registers a table under its name in pages."""

    def register(make: Table) -> Table:
        TABLES[name] = make
        return make

    return register


def make(run: str, results: Path = DOCS / "results", **settings: Any) -> None:
    """Run docs/studies/RUN.yaml, and save its rounded tables, its figures and made.json.

    Parameters
    ----------
    results
        The folder for the tables. For another than docs/results, the run folder is beside it.
    settings
        Sections that replace those of the config, for tests of this script.
    """
    from llmprobe.config.load import load_config
    from llmprobe.runs.pipeline import Run

    out = (ROOT / "runs" if results == DOCS / "results" else results.parent) / "studies" / run
    path = DOCS / "studies" / f"{run}.yaml"
    config = load_config(path)
    if settings:
        config = load_config({**yaml.safe_load(path.read_text(encoding="utf-8")), **settings})
    began = time.process_time()
    Run(config, out).probe(extract=True)
    keep(run, out, results, time.process_time() - began)


def keep(run: str, out: Path, results: Path, seconds: float) -> None:
    """Save the tables of a run folder that pages show, its figures, and made.json."""
    from llmprobe.config.load import load_config
    from llmprobe.results.differences import differences
    from llmprobe.results.folder import read_results
    from llmprobe.runs.wordings import wordings

    folder = results / run
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in KEPT.items():
        if (out / f"{name}.parquet").is_file():
            whole = pd.read_parquet(out / f"{name}.parquet")
            if name == "transfer_layers":  # Only the figure shows pairs of different layers.
                whole = whole[whole["train_layer"] == whole["test_layer"]]
            _write(whole[[column for column in columns if column in whole]], folder / f"{name}.csv")
    if run == "concept_depth_moved":
        datasets = load_config(DOCS / "studies" / f"{run}.yaml").datasets
        same = wordings((each.title, each.model_dump(mode="json")) for each in datasets)
        moved = differences(read_results(out), same)
        _write(moved[list(KEPT["differences"])], folder / "differences.csv")
    environment = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    versions = ("llmprobe", "python", "torch", "transformers", "scikit-learn")
    made = {
        "config": config_digest(run),
        "date": environment["date"][:10],
        "processor": environment["processor"],
        "cores": environment["cores"],
        "versions": {name: environment[name] for name in versions},
        "cpu_seconds": round(seconds),
    }
    text = json.dumps(made, indent=1)
    (folder / "made.json").write_text(text + "\n", encoding="utf-8")
    if (losses := out.parent / "checkpoints" / "loss.csv").is_file() and run == "training_steps":
        (folder / "loss.csv").write_bytes(losses.read_bytes())
    draw(run, out, results.parent / "images")


def _write(shown: pd.DataFrame, path: Path) -> None:
    """Write a table, rounded, without columns in which nothing is."""
    shown.dropna(axis=1, how="all").round(4).to_csv(path, index=False, lineterminator="\n")


def draw(run: str, out: Path, images: Path) -> None:
    """Draw the figures of a study's page from a run folder."""
    from llmprobe.reporting.charts.published import under_published
    from llmprobe.reporting.charts.style import png
    from llmprobe.results.figures import FIGURES
    from llmprobe.results.folder import read_results
    from llmprobe.results.published import jin2024

    found = read_results(out)
    drawn: dict[str, Any] = {}
    for name in PICTURES.get(run, ()):
        kind = FIGURES[name].drawn(found) if name != "published" else {}
        drawn |= {f"{name}{of}": figure for of, figure in kind.items()}
    if "published" in PICTURES.get(run, ()):
        drawn["published"] = under_published(found, jin2024())
    images.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        (images / f"study_{run}_{name}.png").write_bytes(png(figure))


PICTURES: Mapping[str, Mapping[str, str]] = {
    "concept_depth": {"curves": "Accuracy over relative depth, a panel for each dataset."},
    "concept_depth_as_published": {
        "published": "Accuracy over relative depth, a panel for each dataset: the runs' models in "
        "colour, what was published of models of 7 billion parameters in grey."
    },
    "truth": {
        "transfer": "A matrix of AUROCs: fitted on the set of a row, scored on that of a column.",
        "transfer_by_layer": "AUROC by layer, at home and on the other sets.",
    },
    "truth_used": {"doses": "The effect of changed states over layers and doses."},
    "difficulty": {"said_used": "For each task a strip over the layers: readable and said."},
    "training_steps": {"said_used": "For each step a strip over the layers: readable and said."},
    "languages": {
        "transfer": "A matrix of AUROCs: fitted on the language of a row, scored on that of a "
        "column.",
        "transfer_by_layer": "AUROC by layer, in the probe's own language and in the others.",
    },
}
"""The figures of a run that its page shows, with their alt texts."""


def config_digest(run: str) -> str:
    """Return a digest of a study's config, without its comments."""
    text = (DOCS / "studies" / f"{run}.yaml").read_text(encoding="utf-8")
    return digest(yaml.safe_load(text))[:12]


NAN = float("nan")

LEAST_TOLD = 0.6
"""The AUROC above which a table names the layer; below it, the best layer is mere noise."""

NOT_RUN = "*Not run yet: `python scripts/studies.py make {run}`.*"

BLOCK = re.compile(r"(<!-- (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(page: str, results: Path = DOCS / "results") -> str:
    """Return a page with its tables filled from the results."""

    def fill(block: re.Match[str]) -> str:
        name, run = block[2], block[3]
        there = name == "study" or (results / run / "made.json").is_file()
        text = TABLES[name](results, run) if there else NOT_RUN.format(run=run)
        return f"{block[1]}\n{text}\n\n{block[4]}"

    return BLOCK.sub(fill, page)


def pages() -> list[Path]:
    """Return the pages of studies, without the index."""
    return [path for path in sorted((DOCS / "studies").glob("*.md")) if path.stem != "index"]


def markdown(rows: Sequence[Sequence[str]], header: Sequence[str], left: int = 2) -> str:
    """Return a Markdown table; the first ``left`` columns are words, the others numbers."""
    ends = ["|---" if i < left else "|--:" for i in range(len(header))]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "".join(ends) + "|", *lines[1:]])


def number(value: float, digits: int = 2) -> str:
    """Return a number as ``.87``, ``1.00`` or ``−.03``; a dash for NaN."""
    if math.isnan(value):
        return "–"
    rounded = f"{value:.{digits}f}"
    if float(rounded) == 0:
        rounded = rounded.removeprefix("-")
    return re.sub(r"^(-?)0\.", r"\1.", rounded).replace("-", "−")


def interval(row: Mapping[Any, Any], name: str) -> str:
    """Return ``.87 [.85, .89]`` for a column, or ``.87`` if it has no interval."""
    value, low, high = (row.get(f"{name}{end}", NAN) for end in ("", "_low", "_high"))
    bounds = "" if math.isnan(low) else f" [{number(low)}, {number(high)}]"
    return number(value) + bounds


def read(results: Path, run: str, name: str) -> pd.DataFrame:
    """Return a table of a run's results."""
    return pd.read_csv(results / run / f"{name}.csv")


@table("made")
def made(results: Path, run: str) -> str:
    """Return the command, date, machine and versions of a run."""
    facts = json.loads((results / run / "made.json").read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    minutes = max(1, round(facts["cpu_seconds"] / 60))
    took = f"; about {minutes} min of one core" if facts["cpu_seconds"] else ""
    return (
        f"`llmprobe run docs/studies/{run}.yaml` (config {facts['config']}, {facts['date']}, "
        f"{facts['processor']}, {facts['cores']} cores; {versions}{took})"
    )


def _best(results: Path, run: str) -> pd.DataFrame:
    """Return the summary, with the columns of the results at each best layer."""
    summary = read(results, run, "summary")
    layers = read(results, run, "results")
    more = [c for c in layers if c not in summary or c in ("model", "dataset")]
    return summary.merge(
        layers[more], left_on=["model", "dataset", "peak_layer"],
        right_on=["model", "dataset", "layer"],
    )  # fmt: skip


@table("pictures")
def pictures(results: Path, run: str) -> str:  # noqa: ARG001
    """Return the figures of a run."""
    of_run = PICTURES[run].items()
    return "\n\n".join(f"![{alt}](../images/study_{run}_{name}.png)" for name, alt in of_run)


@table("scores")
def scores(results: Path, run: str) -> str:
    """Return the best layer of each curve, beside the baselines that need no model."""
    rows = [
        [
            short(row["dataset"]), row["model"], str(row["n_examples"]),
            interval(row, "accuracy"), f"{row['peak_layer']} of {row['layers']}",
            interval(row, "stays_above_half_depth"), p_value(row),
            number(row["majority_accuracy"]), number(row.get("bag_of_words_accuracy", NAN)),
        ]
        for row in _best(results, run).sort_values(["dataset", "model"]).to_dict("records")
    ]  # fmt: skip
    header = ["dataset", "model", "texts", "accuracy at the best layer", "best layer",
              "above half from depth", "p", "majority", "bag of words"]  # fmt: skip
    return markdown(rows, header)


def p_value(row: Mapping[Any, Any]) -> str:
    """Return the adjusted p-value of a curve."""
    return number(row.get("peak_p_value_adjusted", NAN), 3)


@table("study")
def study(results: Path, run: str) -> str:  # noqa: ARG001
    """Return the results of Jin et al. (2024), beside baselines without a model on their split."""
    peaks = pd.read_csv(shipped("data") / "jin2024_peaks.csv")
    baselines = pd.read_csv(shipped("data") / "jin2024_baselines.csv").set_index("dataset")
    majority, words = baselines["majority"].to_dict(), baselines["bag_of_words"].to_dict()
    rows = []
    for dataset, of_set in peaks.groupby("dataset", sort=False):
        best, layers = of_set["peak_accuracy"], of_set["converging_layer"] / of_set["blocks"]
        small = of_set[of_set["model"] == "Qwen-0.5B"].iloc[0]
        rows.append(
            [
                short(dataset), number(small["peak_accuracy"]),
                f"{number(best.min())} to {number(best.max())}",
                f"{layers.min():.0%} to {layers.max():.0%}".replace("%", " %"),
                number(majority[str(dataset)]), number(words[str(dataset)]),
            ]
        )  # fmt: skip
    header = ["dataset", "best accuracy of Qwen-0.5B", "of nine models", "converging depth",
              "majority", "bag of words"]  # fmt: skip
    return markdown(rows, header, left=1)


@table("published")
def published(results: Path, run: str) -> str:
    """Return peaks by the study's protocol, with the lowest accuracy up to the peak's layer."""
    words = read(results, run, "summary")[["dataset", "model", "bag_of_words_accuracy"]]
    own, rows = read(results, run, "results").merge(words, on=["dataset", "model"]), []
    for (dataset, model), curve in own.groupby(["dataset", "model"]):
        best = curve.nlargest(1, "accuracy").to_dict("records")[0]
        before = curve[curve["layer"] <= best["layer"]]["accuracy"].min()
        rows.append(
            [
                short(dataset), str(model), interval(best, "accuracy"),
                f"{best['layer']} of {curve['layer'].max()}", number(before),
                number(best["bag_of_words_accuracy"]),
            ]
        )  # fmt: skip
    header = ["dataset", "model", "best accuracy", "at layer", "lowest before it", "bag of words"]
    return markdown(rows, header)


def short(dataset: object) -> str:
    """Return a dataset's name without its collection."""
    return str(dataset).rsplit("/", 1)[-1]


@table("depths")
def depths(results: Path, run: str) -> str:
    """Return the accuracy of each curve at five relative depths."""
    shares, rows = (0.0, 0.25, 0.5, 0.75, 1.0), []
    for (dataset, model), curve in read(results, run, "results").groupby(["dataset", "model"]):
        at = [curve.iloc[(curve["depth"] - share).abs().argmin()]["accuracy"] for share in shares]
        rows.append([short(dataset), str(model), *map(number, at)])
    return markdown(rows, ["dataset", "model", "first layer", "25 %", "50 %", "75 %", "last"])


@table("moved")
def moved(results: Path, run: str) -> str:
    """Return how fewer bits and noise before the texts move each curve, in pairs of answers."""
    rows = []
    for pair in read(results, run, "differences").to_dict("records"):
        model, changed = str(pair["model_a"]), str(pair["model_b"])
        dataset, other = short(pair["dataset_a"]), short(pair["dataset_b"])
        bits = changed.removeprefix(f"{model}-")
        plain = not model.endswith(("-int8", "-nf4")) and not dataset.endswith("_noise")
        if not plain or (dataset == other and bits not in ("int8", "nf4")):
            continue
        rows.append(
            [
                dataset, model, "noise" if dataset != other else bits,
                number(pair["accuracy_a"]), interval(pair, "difference"),
                number(pair["stays_above_half_depth_a"]),
                interval(pair, "stays_above_half_depth_difference"),
            ]
        )  # fmt: skip
    header = ["dataset", "model", "with", "accuracy before", "change", "above half from depth",
              "change"]  # fmt: skip
    return markdown(sorted(rows), header, left=3)


@table("said")
def said(results: Path, run: str) -> str:
    """Return what is readable at the best layer, beside what the model says."""
    rows = [
        [
            row["dataset"], row["model"], interval(row, "auroc"),
            f"{row['peak_layer']} of {row['layers']}", p_value(row),
            interval(row, "said_auroc_end"), number(row.get("said_layer", NAN), 0),
        ]
        for row in _said(results, run).to_dict("records")
    ]  # fmt: skip
    header = ["dataset", "model", "readable (AUROC)", "best layer", "p", "said (AUROC)",
              "said from layer"]  # fmt: skip
    return markdown(rows, header)


def _said(results: Path, run: str) -> pd.DataFrame:
    summary = read(results, run, "summary")
    ends = {f"said_auroc{end}": f"said_auroc_end{end}" for end in ("", "_low", "_high")}
    layers = read(results, run, "results")
    auroc = ["model", "dataset", "layer", "auroc", "auroc_low", "auroc_high"]
    return summary.rename(columns=ends).merge(
        layers[auroc], left_on=["model", "dataset", "peak_layer"],
        right_on=["model", "dataset", "layer"],
    )  # fmt: skip


@table("used")
def used(results: Path, run: str) -> str:
    """Return the largest effect of changed states as a share of the gap between the classes."""
    rows = [
        [
            row["dataset"], row["model"], number(row["used_layer"], 0),
            str(row.get("used_direction", "–")), interval(row, "used_share"),
            number(row["used_p_value"]),
        ]
        for row in read(results, run, "summary").to_dict("records")
    ]  # fmt: skip
    return markdown(rows, ["dataset", "model", "layer", "direction", "share of the gap", "p"])


@table("steps")
def steps(results: Path, run: str) -> str:
    """Return the loss at each step, and what is readable and said of each dataset."""
    losses = read(results, run, "loss")
    found = _said(results, run).set_index(["model", "dataset"])
    datasets, rows = list(found.index.unique("dataset")), []
    for step, answer, other in losses.itertuples(index=False):
        cells = [str(step), number(answer), number(other)]
        for dataset in datasets:
            row = found.loc[(f"step{step}", dataset)]
            at = f" at {row['peak_layer']}" if row["auroc"] > LEAST_TOLD else ""
            cells += [number(row["auroc"]) + at, number(row["said_auroc_end"])]
        rows.append(cells)
    header = ["step", "loss of the answer", "of other words"]
    header += [f"{dataset}, {what}" for dataset in datasets for what in ("readable", "said")]
    return markdown(rows, header, left=0)


@table("transfer")
def transfer(results: Path, run: str) -> str:
    """Return the AUROC of probes of each train set on each test set."""
    cells = read(results, run, "transfer")
    tests, rows = list(cells["test"].unique()), []
    for (model, train), of_set in cells.groupby(["model", "train"], sort=False):
        by_test = of_set.set_index("test")["auroc"]
        layer = of_set["train_layer"].iloc[0]
        rows.append(
            [str(model), str(train), str(layer), *(number(by_test[test]) for test in tests)]
        )
    return markdown(rows, ["model", "fitted on", "layer", *tests])


def main() -> None:
    """Run the subcommand of the command line, and write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="run studies and keep their tables and figures")
    making.add_argument("runs", nargs="*", metavar="RUN")
    kept = commands.add_parser("keep", help="keep the tables and figures of finished run folders")
    kept.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    commands.add_parser("pages", help="write the kept tables into the pages")
    options = parser.parse_args()
    if options.command == "make":
        every = [path.stem for path in sorted((DOCS / "studies").glob("*.yaml"))]
        if unknown := set(options.runs) - set(every):
            parser.error(f"no study {min(unknown)!r}; known: {', '.join(every)}")
        for run in options.runs or every:
            make(run)
    if options.command == "keep":
        for folder in options.folders:
            if not (folder / "environment.json").is_file():
                parser.error(f"{folder} is no finished run")
        for folder in options.folders:
            keep(folder.name, folder, DOCS / "results", 0)
    for page in pages():
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
