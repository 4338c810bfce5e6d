"""A saved probe as a classifier of the texts in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

import llmprobe
from llmprobe.config.load import validated
from llmprobe.config.schema import TABLE_SUFFIXES, DatasetConfig
from llmprobe.datasets.cells import find_column
from llmprobe.datasets.from_table import unlabelled, unlabelled_chats
from llmprobe.datasets.tables import read_table
from llmprobe.extraction.stream import stream_states
from llmprobe.ground.errors import UserError, first_line
from llmprobe.ground.files import sha256, whole_file
from llmprobe.ground.progress import Progress
from llmprobe.monitors.kept_outputs import KeptOutputs
from llmprobe.monitors.new_texts import (
    NewTextReader,
    NewTexts,
    ReadingOptions,
    reading_of_chats,
    tokenise_new,
)
from llmprobe.probing.token_probes import logits_of_texts
from llmprobe.results.metrics import METRICS, Predictions
from llmprobe.results.operating import Threshold
from llmprobe.results.resampling import Resamples
from llmprobe.results.saved_probe import SavedProbe, load_probe


@dataclass(frozen=True)
class ScoredTexts:
    """What a probe says of the texts in a table."""

    table: pd.DataFrame
    """The table of the file, with the columns ``predicted`` and ``score``: the probability of the
    second of two classes, of the predicted one of more, or the predicted number. With more than two
    classes each has a column ``probability CLASS``; with a threshold there is ``flagged``."""
    summary: str
    """One line: how many texts, what was predicted, how many are flagged at which threshold with
    which guarantee, and the probe's scores if labels are known."""


BATCH = 2048
"""Texts that are tokenised, run and kept at a time: enough to share their beginnings, and few
enough that an interruption costs little."""


def score_texts(
    reader: NewTextReader,
    values: pd.DataFrame,
    layer: int,
    where: str,
    name: str,
    *,
    batch: int = BATCH,
    keep: Path | None = None,
    key: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Return a probe's outputs for texts, read as its own were at its position and site.

    Parameters
    ----------
    values
        Texts in the column ``text``, and the other columns that their template needs. n rows
    where, name
        What the texts are called in errors, and in the progress bar.
    batch
        Texts that are read at a time; memory does not grow with the number of texts.
    keep
        A folder that keeps the outputs of each batch, so that an interrupted call can resume from
        there; by default nothing is kept.
    key
        With ``keep``, what the outputs depend on besides the model, layer and batch size, as JSON.

    Returns
    -------
    np.ndarray
        Probabilities of the classes [n, C], or predicted numbers [n, 1].

    Raises
    ------
    UserError
        The template has a field that is not in ``values``; a text is too long; the model cannot be
        loaded, or is not the one that the probe was fitted on.
    """
    new = reader.texts(values, where)
    reader.require_own_model()
    n, model = len(new.texts), reader.extractor.model.name
    kept = None
    if keep is not None:
        identity = reader.extractor.source.identity
        kept = KeptOutputs(keep, {**(key or {}), "model": identity, "layer": layer, "batch": batch})
    outputs = np.empty((n, max(len(reader.probe.classes), 1)))
    with Progress(f"scoring {name} with {model}", n, shown=n > batch) as bar:
        for start in range(0, n, batch):
            rows = range(start, min(start + batch, n))
            known = None if kept is None else kept.find(rows)
            if known is None:
                known = _score_some(reader, new, rows, layer, where, name)
                if kept is not None:
                    kept.keep(rows, known)
            outputs[rows.start : rows.stop] = known
            bar.advance(len(rows))
    return outputs


def _score_some(
    reader: NewTextReader, new: NewTexts, rows: range, layer: int, where: str, name: str
) -> np.ndarray:
    """Return a probe's outputs for some of the texts, as ``score_texts``."""
    probe, some = reader.probe, new.part(rows)
    is_all = len(rows) == len(new.texts)
    tokens = tokenise_new(
        reader.extractor, some.texts,
        where if is_all else f"{where}, rows {rows.start + 1} to {rows.stop}",
        position=reader.position, ranges=some.ranges, turns=some.turns,
        chat=reading_of_chats(probe),
        place=lambda row: f"{where}: row {rows.start + row + 1}",
    )  # fmt: skip
    outputs = np.empty((len(rows), max(len(probe.classes), 1)))
    layers = probe.layers_of(layer)
    for indices, states in stream_states(reader.extractor, tokens, name, layers, progress=is_all):
        X = np.hstack([of_layer.float().numpy() for of_layer in states])
        if reader.pools_scores:
            n_tokens = np.array([len(tokens.places[row]) for row in indices])
            outputs[indices] = probe.outputs_of(logits_of_texts(probe, layer, X, n_tokens))
        else:
            outputs[indices] = probe.outputs(X, layer)
    return outputs


def score_file(
    path: Path,
    file: Path,
    *,
    text: str | None = None,
    label: str | None = None,
    layer: int | None = None,
    fpr: float | None = None,
    threshold: float | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    quoting: str | None = None,
    options: ReadingOptions | None = None,
    batch: int = BATCH,
    keep: Path | None = None,
) -> ScoredTexts:
    """Score each text of a .csv, .json, .parquet, … file with the probe at ``path``.

    Parameters
    ----------
    text
        Column of the texts, without their template; by default text, statement or sentence.
    label
        Column of the true labels, if they are known.
    layer
        By default the probe's best one.
    fpr, threshold
        The false positive rate, or else the score, above which texts are ``flagged``; as
        ``SavedProbe.threshold`` takes them.
    options
        What differs from how the probe's own texts were read.
    batch, keep
        As ``score_texts`` takes them.

    Raises
    ------
    UserError
        The probe, the file, a column, the layer, a threshold or a label is wrong; a text is empty;
        and as ``score_texts``.
    """
    scorer = Scorer(
        path, text=text, label=label, layer=layer, fpr=fpr, threshold=threshold, options=options
    )
    where = str(file)
    columns = {"path": file, "name": "texts", "encoding": encoding, "delimiter": delimiter,
               "quoting": quoting, "template": scorer.reader.options.template}  # fmt: skip
    config = validated(DatasetConfig, columns, where)
    table = read_table(file, config.encoding, config.delimiter, config.quoting)
    key = {
        "version": llmprobe.__version__, "probe": sha256(path), "file": sha256(file), "text": text,
        "reading": [scorer.reader.options.template, scorer.reader.options.too_long],
        "table": [config.encoding, config.delimiter, config.quoting],
    } if keep is not None else {}  # fmt: skip
    table = scorer.score(table, where, file.name, batch=batch, keep=keep, key=key)
    return ScoredTexts(table, f"{file.name}: {scorer.summary}")


class Scorer:
    """A saved probe that scores tables, one after another.

    Parameters
    ----------
    probe
        A saved probe, or its file; the other parameters are those of ``score_file``.

    Raises
    ------
    UserError
        The probe is not of a language model, or it has no such layer or threshold.
    """

    def __init__(
        self,
        probe: SavedProbe | Path,
        *,
        text: str | None = None,
        label: str | None = None,
        layer: int | None = None,
        fpr: float | None = None,
        threshold: float | None = None,
        options: ReadingOptions | None = None,
    ) -> None:
        self.probe = probe if isinstance(probe, SavedProbe) else load_probe(probe)
        self.layer = self.probe.layer_or_best(layer)
        self.threshold: Threshold | None = None
        """The score above which texts are flagged; None if not asked for."""
        if fpr is not None or threshold is not None:
            at = self.probe.threshold(fpr, value=threshold, layer=layer)
            self.threshold = _as_read(at, options or ReadingOptions())
        where = "the probe" if isinstance(probe, SavedProbe) else str(probe)
        self.reader = NewTextReader(self.probe, where, options)
        self.text, self.label = text, label
        self._flagged = 0
        self._n, self._predicted, self._range = 0, Counter[int](), np.array([np.inf, 0, -np.inf])
        self._known: list[tuple[np.ndarray, np.ndarray]] = []

    def score(self, table: pd.DataFrame, where: str, name: str, **options: Any) -> pd.DataFrame:
        """Return a table with what the probe says of its texts in new columns.

        Parameters
        ----------
        where, name
            What the table is called in errors, and in the progress bar.
        **options
            ``batch``, ``keep`` and ``key`` of ``score_texts``.

        Raises
        ------
        UserError
            A column or a label is wrong; a text is empty; and as ``score_texts``.
        """
        probe = self.probe
        if self.reader.of_chats:
            values = unlabelled_chats(table, where)
        else:
            values = unlabelled(table, self.text, where)
        truth = None if self.label is None else _truth(table, self.label, probe, where)
        names = [*_new_columns(probe), *["flagged"] * (self.threshold is not None)]
        for column in names:
            if column in table.columns:
                raise UserError(f"{where}: has a column {column!r} already, which would be "
                                "overwritten; rename it")  # fmt: skip
        outputs = score_texts(self.reader, values, self.layer, where, name, **options)
        self._n += len(outputs)
        if probe.classes:
            self._predicted.update(outputs.argmax(axis=1).tolist())
        else:
            low, total, high = self._range
            self._range = np.array(
                [min(low, outputs.min()), total + outputs.sum(), max(high, outputs.max())]
            )
        if truth is not None:
            self._known.append((outputs, truth))
        new = _new_values(probe, outputs)
        if self.threshold is not None:
            new.append(outputs[:, 1] > self.threshold.value)
            self._flagged += int(new[-1].sum())
        return table.assign(**dict(zip(names, new, strict=True)))

    @property
    def summary(self) -> str:
        """Return a line on how many texts were scored, what was predicted and how right it was.

        With a threshold, the line also says how many are flagged, and with which guarantee.
        """
        count = "1 text" if self._n == 1 else f"{self._n:,} texts"
        line = (
            f"{count}, scored by the probe of {self.probe.facts['dataset']} in "
            f"{self.reader.extractor.model_config.name} at "
            f"{self.probe.layers_in_words(self.layer)}: {self._what()}"
        )
        if self.threshold is not None:
            line = f"{line}; {self._flagged:,} flagged, {self.threshold.sentence}"
        if self._known:
            outputs, truth = map(np.concatenate, zip(*self._known, strict=True))
            line = f"{line}; {_how_right(self.probe, outputs, truth)}"
        return line

    def _what(self) -> str:
        """Say in words what was predicted."""
        if not self.probe.classes:
            low, total, high = self._range
            return f"predicted {total / self._n:.4g} on average, from {low:.4g} to {high:.4g}"
        counts = self._predicted.most_common()
        shown = [f"{n:,} × {self.probe.class_names[k]!r:.40}" for k, n in counts[:4]]
        return "predicted " + ", ".join([*shown, *["…"] * (len(counts) > 4)])


def write_all_scored(tables: Iterator[pd.DataFrame], out: Path) -> None:
    """Write tables below each other into one file as they come; write all of them or none.

    Raises
    ------
    UserError
        No rows can be added to a file of this suffix; the tables differ in their columns.
    """
    if out.suffix not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"--out {out}: for a stream it should end in .csv, .tsv, .jsonl")
    with whole_file(out) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        if out.suffix == ".jsonl":
            for table in tables:
                table.to_json(file, orient="records", lines=True, force_ascii=False)
            return
        for text in csv_of(tables, "\t" if out.suffix == ".tsv" else ","):
            file.write(text)


def csv_of(tables: Iterator[pd.DataFrame], delimiter: str = ",") -> Iterator[str]:
    """Yield the rows of tables as CSV, with one header.

    Raises
    ------
    UserError
        The tables differ in their columns.
    """
    columns: list[str] | None = None
    for table in tables:
        if columns is not None and set(columns) != set(table.columns):
            odd = min(set(columns) ^ set(table.columns))
            raise UserError(f"stdin: only some rows have {odd!r}; --out FILE.jsonl can hold them")
        yield table.to_csv(index=False, columns=columns, header=columns is None, sep=delimiter)
        columns = columns or list(table.columns)


def write_scored(table: pd.DataFrame, out: Path) -> None:
    """Write the table in the format of the suffix, atomically.

    Raises
    ------
    UserError
        A column has values that this kind of file cannot hold.
    """
    with whole_file(out) as partial:
        if out.suffix == ".parquet":
            try:
                table.to_parquet(partial, index=False)
            except (pyarrow.ArrowException, TypeError, ValueError) as error:
                reason = first_line(error)
                raise UserError(f"--out {out}: {reason}; a .jsonl file can hold it") from None
        elif out.suffix in (".json", ".jsonl"):
            lines = out.suffix == ".jsonl"
            table.to_json(partial, orient="records", lines=lines, force_ascii=False)
        else:
            table.to_csv(partial, index=False, sep="\t" if out.suffix == ".tsv" else ",")


def require_writable_file(out: Path, file: Path) -> None:
    """Raise ``UserError`` unless ``out`` can be written: a table of a known kind, not ``file``."""
    if out.suffix not in TABLE_SUFFIXES:
        raise UserError(f"--out {out}: should end in {', '.join(TABLE_SUFFIXES)}")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of a file")
    if out.exists() and file.exists() and out.samefile(file):
        raise UserError(f"--out {out}: is the file that is read; give another name")


def _new_columns(probe: SavedProbe) -> list[str]:
    """Return the names of the columns that are added to a table."""
    several = probe.classes if len(probe.classes) > 2 else ()
    return ["predicted", "score", *(f"probability {label}" for label in several)]


def _new_values(probe: SavedProbe, outputs: np.ndarray) -> list[Any]:
    """Return the values of the added columns. Each [n]"""
    if not probe.classes:
        return [outputs[:, 0], outputs[:, 0]]
    predicted = [probe.classes[k] for k in outputs.argmax(axis=1)]
    outputs = outputs.round(6)
    if len(probe.classes) > 2:
        return [predicted, outputs.max(axis=1), *outputs.T]
    return [predicted, outputs[:, 1]]


def _as_read(threshold: Threshold, options: ReadingOptions) -> Threshold:
    """Return a threshold; drop its guarantee if another model or template reads the texts."""
    if not threshold.guarantee or (options.model is None and options.template is None):
        return threshold
    return Threshold(
        threshold.value,
        guarantee=False,
        sentence=f"threshold {threshold.value:.6g}, no guarantee: it was calibrated with another "
        "model or template",
    )


def _truth(table: pd.DataFrame, label: str, probe: SavedProbe, where: str) -> np.ndarray:
    """Return class indices, or labels that are numbers; NaN for a row without a label. [n]"""
    cells = table[find_column("label", label, list(table.columns), where)]
    numbers = {_plain(known): number for number, known in enumerate(probe.classes)}
    truth = np.full(len(table), np.nan)
    for row, cell in enumerate(cells.tolist()):
        if pd.api.types.is_scalar(cell) and pd.isna(cell):
            continue
        try:
            truth[row] = numbers[_plain(cell)] if probe.classes else float(cell)
        except (LookupError, TypeError, ValueError):
            known = ", ".join(map(str, probe.classes[:10]))
            expected = f"class of the probe; its classes are {known}"
            if not probe.classes:
                expected = "number, as the probe predicts"
            raise UserError(
                f"{where}: row {row + 1}, column {label!r}: {str(cell)!r:.40} is no {expected}"
            ) from None
    if np.isnan(truth).all():
        raise UserError(f"{where}: column {label!r} has no labels")
    return truth


def _plain(label: object) -> str:
    """Return one spelling for 1, 1.0 and "1": files may write the same class differently."""
    text = str(label).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").lstrip("-").isdecimal() else text


def _how_right(probe: SavedProbe, outputs: np.ndarray, truth: np.ndarray) -> str:
    """Report accuracy and AUROC, or R², for the rows that have a label."""
    known = ~np.isnan(truth)
    outputs, truth = outputs[known], truth[known]
    once = Resamples(len(truth), samples=1)
    if probe.classes:
        metrics = [METRICS["accuracy"], METRICS["auroc"]]
        predictions = Predictions(truth.astype(int), outputs, once)
    else:
        metrics, predictions = [METRICS["r2"]], Predictions(truth, outputs[:, 0], once)
    scores = {metric.label: metric.estimate(predictions) for metric in metrics}
    words = (
        f"{label} undefined (one class only)" if np.isnan(score) else f"{label} {score:.3f}"
        for label, score in scores.items()
    )
    return ", ".join(words) + ("" if known.all() else f" ({known.sum():,} with a label)")
