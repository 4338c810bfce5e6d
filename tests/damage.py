"""Damage files of every kind that is read back, at random, and report what happens.

    python tests/damage.py --n 400

The script makes two tiny runs, their comparison, an experiment, traces and a cache. Then it damages
one file, reads what that belongs to, restores everything, and begins again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_images import make_cheap, small_images
from tiny import save_tokenizer, tiny_config
from toy import write_config, write_table

from llmprobe import UserError
from llmprobe.config.load import load_config
from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.load import load_dataset
from llmprobe.extraction.extract import Extractor
from llmprobe.monitors.new_texts import ReadingOptions
from llmprobe.monitors.tracing import probes_of_run, trace_probes
from llmprobe.reporting.trace.files import write_trace
from llmprobe.results.folder import TABLES, read_results
from llmprobe.results.saved_probe import load_probe
from llmprobe.results.trace import traces_of_run
from llmprobe.runs.compare import compare
from llmprobe.runs.pipeline import Run
from llmprobe.runs.report import FOLDER_KINDS, kind_of, terminal_text
from llmprobe.sanity import experiments
from llmprobe.sanity.config import MnistConfig

OUTCOMES = ("refused", "made again", "harmless", "silent", "traceback")
"""In order: an error or a note names the file; the file is made again with the same results; the
damage changes no result; results differ without a message; an error is not of one line."""
RUNS = ("run", "other")


def flip(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def overwrite(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + draw.randbytes(16) + content[place + 16 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flipped bit": flip,
    "16 other bytes": overwrite,
    "cut": lambda content, draw: content[: draw.randrange(1, len(content))],
    "emptied": lambda *_: b"",
}
SWAPPED = "swapped"


@dataclass
class Tree:
    """All that is damaged, in one folder."""

    root: Path
    said: list[str] = field(default_factory=list)
    """Warnings and notes since a damage."""

    def make(self) -> None:
        """Make everything."""
        import torch
        from transformers import AutoModel

        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModel.from_config(tiny_config("llama")).save_pretrained(self.root / "model")
        save_tokenizer(self.root / "model")
        tables = [
            write_table(self.root / "first.csv"),
            write_table(self.root / "second.csv", words=("green", "blue")),
        ]
        model = {"id": str(self.root / "model"), "name": "tiny", "dtype": "float32"}
        quick = {"folds": 2, "controls": ["majority"], "permutations": 0, "learning_curve": [0.5]}
        for name, l2 in zip(RUNS, (1.0, 50.0), strict=True):
            config = self.root / f"{name}.yaml"
            write_config(config, model, *tables, name=name, probe={**quick, "l2": l2})
            self.run(name)
        for made in trace_probes(
            probes_of_run(self.root / "run"), ["coin is red"], ReadingOptions()
        ):
            write_trace(made, self.root / "run" / "traces")
        compare([self.root / name for name in RUNS], self.root / "both", anyway=True)
        small_images(self.root / "images")
        self.experiment()

    def run(self, name: str) -> None:
        Run(load_config(self.root / f"{name}.yaml"), self.root / name).probe(extract=True)

    def experiment(self) -> None:
        config = MnistConfig(data=str(self.root / "images"), quick=True)
        experiments.run(config, self.root / "convnet", progress=False)

    def states(self) -> dict[str, Any]:
        """Read the cache."""
        config = ModelConfig(id=str(self.root / "model"), name="tiny", dtype="float32")
        extractor, found = Extractor(config), {}
        for name in ("first", "second"):
            dataset = load_dataset(self.root / f"{name}.csv")
            activations = extractor.extract(dataset, progress=False)
            found[name] = [
                hashlib.sha256(activations.layer(layer).tobytes()).hexdigest()
                for layer in activations.layers
            ]
        return found

    def show(self, name: str) -> dict[str, Any]:
        """Read a run folder of any kind, as a report does, and its probes."""
        out = self.root / name
        run = read_results(out)
        about = FOLDER_KINDS[kind_of(out)].describe(run)
        self.said += [*run.notes, *about.notes]
        facts = {key: value for key, value in run.environment.items() if key != "date"}
        seen: dict[str, Any] = {
            "config": run.config, "environment": facts, "title": about.title,
            "command": about.command, "findings": list(about.findings),
            "text": terminal_text(out).plain,
            # In any order: the names of files may be swapped, each says itself what it is of.
            "traces": sorted(json.dumps(trace.to_json()) for trace in traces_of_run(out)),
        }  # fmt: skip
        for table in TABLES.values():
            seen[table] = plain(getattr(run, table))
        if about.compared is not None:
            seen["differences"] = plain(about.compared.differences)
        for path in sorted(out.glob("probes/*/*.safetensors")):
            try:
                probe = load_probe(path)
                seen[str(path)] = [probe.digest, probe.classes, dict(probe.facts), probe.scores]
            except UserError as error:
                self.said.append(str(error))
        return seen

    def reader(self, path: Path) -> Callable[[], Any]:
        """Return what reads a file."""
        name, *rest = path.relative_to(self.root).parts
        if name == "cache":
            return self.states
        if name == "saved":
            return lambda: [load_dataset(path).to_pandas().to_csv(), repr(load_dataset(path))]
        if rest[0] != "parts":
            return lambda: self.show(name)
        redo = self.experiment if name == "convnet" else lambda: self.run(name)
        return lambda: (redo(), self.show(name))[1]


def plain(table: pd.DataFrame) -> str:
    """Return a table without what a clock said."""
    timed = [column for column in table.columns if column.startswith("seconds")]
    return table.drop(columns=timed).to_csv(index=False)


def files_by_kind(root: Path) -> dict[str, list[Path]]:
    """Return all files that are read back, by what they are."""
    # Of datasets one, since a file of a user's own may get another name.
    kinds = {"a saved dataset": [root / "saved" / "first.parquet"]}
    for folder in (*RUNS, "both", "convnet", "cache"):
        for path in sorted((root / folder).rglob("*")):
            place, name = path.relative_to(root).parts[1], path.name
            if not path.is_file() or path.suffix in (".csv", ".html", ".png", ".svg"):
                continue
            if path.suffix == ".safetensors" and name.startswith("shard-"):
                name = "shard"
            elif path.parent.name == "traces":
                name = "a trace"
            elif name.startswith("traces-"):
                name = "traces of examples"
            elif place == "probes":
                name = "a saved probe"
            kinds.setdefault(f"part: {name}" if place == "parts" else name, []).append(path)
    return kinds


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def restore(root: Path, whole: dict[Path, bytes]) -> None:
    for path, content in contents(root).items():
        if path not in whole:
            path.unlink()
        elif content != whole[path]:
            path.write_bytes(whole[path])
    for path in whole.keys() - contents(root).keys():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole[path])


@contextmanager
def warnings_into(said: list[str]) -> Iterator[None]:
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("llmprobe")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def outcome(tree: Tree, path: Path, damaged: bytes, expected: Any) -> tuple[str, str]:
    """Read what a damaged file belongs to. -> one of ``OUTCOMES``, and what was said"""
    tree.said.clear()
    try:
        with warnings_into(tree.said):
            found = json.dumps(tree.reader(path)(), sort_keys=True, default=str)
    except UserError as error:
        return "refused" if "\n" not in str(error) else "traceback", str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    said = "; ".join(tree.said)
    if found == expected:
        return "harmless" if path.exists() and path.read_bytes() == damaged else "made again", said
    return "refused" if path.name in said or "digests.json" in said else "silent", said


def campaign(root: Path, n: int, seed: int = 0) -> pd.DataFrame:
    """Make everything in a folder, and damage it ``n`` times. -> a row a damage"""
    tree, draw, rows = Tree(root), random.Random(seed), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMPROBE_CACHE", str(root / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        make_cheap(patch)
        tree.make()
        load_dataset(root / "first.csv").save(root / "saved" / "first.parquet")
        whole, kinds = contents(root), files_by_kind(root)
        expected: dict[str, str] = {}
        for number in range(n):
            kind = list(kinds)[number % len(kinds)]
            path = draw.choice(kinds[kind])
            twins = [other for other in kinds[kind] if whole[other] != whole[path]]
            twins = [other for other in twins if other.name == path.name] or twins
            damage = draw.choice([*DAMAGES, SWAPPED] if twins else [*DAMAGES])
            top, below, *_ = path.relative_to(root).parts
            place = f"{top}/{below}" if below == "parts" or top == "saved" else top
            if place not in expected:
                expected[place] = json.dumps(tree.reader(path)(), sort_keys=True, default=str)
                restore(root, whole)
            if damage == SWAPPED:
                twin = draw.choice(twins)
                path.write_bytes(whole[twin])
                twin.write_bytes(whole[path])
            else:
                path.write_bytes(DAMAGES[damage](whole[path], draw))
            result, said = outcome(tree, path, path.read_bytes(), expected[place])
            restore(root, whole)
            rows.append((kind, str(path.relative_to(root)), damage, result, said))
    return pd.DataFrame(rows, columns=["kind", "path", "damage", "outcome", "said"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="llmprobe-damage-") as scratch:
        rows = campaign(Path(scratch), options.n, options.seed)
    for by in ("kind", "damage"):
        table = pd.crosstab(rows[by], rows["outcome"], margins=True)
        print(table.reindex(columns=[*OUTCOMES, "All"], fill_value=0).to_string(), end="\n\n")
    bad = rows[rows["outcome"].isin(["silent", "traceback"])]
    print(bad.to_string(index=False) if len(bad) else "no silent reads, no tracebacks")
    return len(bad) > 0


if __name__ == "__main__":
    sys.exit(main())
