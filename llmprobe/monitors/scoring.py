"""A saved probe as a classifier of the texts in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from llmprobe.config.load import validated
from llmprobe.config.schema import TABLE_SUFFIXES, DatasetConfig
from llmprobe.datasets.from_table import unlabelled
from llmprobe.datasets.tables import read_table
from llmprobe.extraction.stream import passing_states
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.ground.files import whole_file
from llmprobe.monitors.new_texts import as_read, ends_of, reader_of, require_its_model, tokens_of
from llmprobe.results.saved_probe import SavedProbe, load_probe


@dataclass(frozen=True)
class ScoredTexts:
    """What a probe says of the texts in a table."""

    table: pd.DataFrame
    """That of the file, with the columns ``predicted`` and ``score``: the probability of the last
    of two classes, that of the predicted one of more, or the predicted number. Of more than two
    classes each has a column ``probability CLASS`` too."""
    summary: str
    """One line: how many texts, what was predicted, and how right it was if labels are known."""


def score_file(
    path: Path,
    file: Path,
    *,
    text: str | None = None,
    label: str | None = None,
    template: str | None = None,
    layer: int | None = None,
    too_long: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> ScoredTexts:
    """Score each text of a .csv, .tsv, .jsonl or .parquet file with the probe at ``path``.

    Parameters
    ----------
    text
        Column of the texts, without their template; by default text, statement or sentence.
    label
        Column of the true labels, if they are known.
    template
        In place of the one that the probe's own texts stood in.
    layer
        By default the one where the probe does best.
    too_long
        ``error`` or ``cut_left``; by default what it was for the probe's own texts.
    model
        A name, id or folder in place of the one that the probe remembers.
    trust_remote_code
        Whether code that comes with the model may run.

    Raises
    ------
    UserError
        The probe, the file, a column, the layer or a label is wrong; a text is empty or too long;
        the model cannot be loaded, or is not the one that the probe was fitted on.
    """
    if path.is_dir():
        inside = [str(found) for found in sorted(path.glob("probes/*/*.safetensors"))]
        such = f", such as {inside[0]}" if inside else ""
        raise UserError(f"{path}: is a folder; a probe is one .safetensors file{such}")
    probe = load_probe(path)
    layer = probe.layer_or_best(layer)
    extractor = reader_of(
        probe, str(path), model=model, too_long=too_long, trust_remote_code=trust_remote_code
    )
    asked = {"path": file, "name": "texts", "encoding": encoding, "delimiter": delimiter,
             "template": template}  # fmt: skip
    config = validated(DatasetConfig, asked, str(file))
    table = read_table(file, config.encoding, config.delimiter)
    where = str(file)
    values = unlabelled(table, text, where)
    truth = None if label is None else _truth(table, label, probe, where)
    _require_new(probe, table, where)
    texts, spans = as_read(probe, values, config.template, where)
    ends = ends_of(probe, values, texts, spans, where)
    require_its_model(probe, extractor, str(path), chosen=model is not None)
    tokens = tokens_of(
        extractor, texts, where, position=extractor.config.position, ends=ends,
        place=lambda row: f"{where}: row {row + 1}",
    )  # fmt: skip
    outputs = np.empty((len(texts), max(len(probe.classes), 1)))
    for rows, states in passing_states(extractor, tokens, file.name):
        of_layer = states[layer - probe.layers[0]].float().numpy()
        if probe.classes:
            outputs[rows] = probe.predict_proba(of_layer, layer)
        else:
            outputs[rows, 0] = probe.decision_function(of_layer, layer)
    count = "1 text" if len(texts) == 1 else f"{len(texts):,} texts"
    said = [
        f"{file.name}: {count}, scored by the probe of {probe.facts['dataset']} in "
        f"{extractor.model_config.name} at layer {layer}: {_predicted_in_words(probe, outputs)}",
        *([] if truth is None else [_how_right(probe, outputs, truth)]),
    ]
    return ScoredTexts(table.assign(**_columns(probe, outputs)), "; ".join(said))


def write_scored(table: pd.DataFrame, out: Path) -> None:
    """Write the table as its suffix says, whole or not at all.

    Raises
    ------
    UserError
        A column holds values that this kind of file cannot.
    """
    with whole_file(out) as partial:
        if out.suffix == ".parquet":
            try:
                table.to_parquet(partial, index=False)
            except (pyarrow.ArrowException, TypeError, ValueError) as error:
                reason = (str(error).splitlines() or ["mixed values"])[0]
                raise UserError(f"--out {out}: {reason}; a .jsonl file can hold it") from None
        elif out.suffix == ".jsonl":
            table.to_json(partial, orient="records", lines=True, force_ascii=False)
        else:
            table.to_csv(partial, index=False, sep="\t" if out.suffix == ".tsv" else ",")


def require_writable(out: Path, file: Path) -> None:
    """Raise ``UserError`` before the work unless ``out`` is a new table of a known kind."""
    if out.suffix not in TABLE_SUFFIXES:
        raise UserError(f"--out {out}: should end in {', '.join(TABLE_SUFFIXES)}")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of a file")
    if out.exists() and file.exists() and out.samefile(file):
        raise UserError(f"--out {out}: is the file that is read; give another name")


def _columns(probe: SavedProbe, outputs: np.ndarray) -> dict[str, Any]:
    """The columns that are added. Each [n]"""
    if not probe.classes:
        return {"predicted": outputs[:, 0], "score": outputs[:, 0]}
    best = outputs.argmax(axis=1)
    several = len(probe.classes) > 2
    scores = outputs.max(axis=1) if several else outputs[:, 1]
    added: dict[str, Any] = {
        "predicted": [probe.classes[k] for k in best], "score": scores.round(6)
    }  # fmt: skip
    if several:
        added |= dict(zip(_probability_names(probe), outputs.round(6).T, strict=True))
    return added


def _probability_names(probe: SavedProbe) -> list[str]:
    several = len(probe.classes) > 2
    return [f"probability {label}" for label in probe.classes] if several else []


def _require_new(probe: SavedProbe, table: pd.DataFrame, where: str) -> None:
    there = {str(column) for column in table.columns}
    for name in ("predicted", "score", *_probability_names(probe)):
        if name in there:
            raise UserError(f"{where}: has a column {name!r} already, which would be written; "
                            "rename it")  # fmt: skip


def _truth(table: pd.DataFrame, label: str, probe: SavedProbe, where: str) -> np.ndarray:
    """Numbers of the classes, or labels that are numbers; NaN for a row without one. [n]"""
    names = [str(column) for column in table.columns]
    if label not in names:
        raise UserError(f"{where}: no column {label!r} (label); {suggestion(label, names)}")
    numbers = {_plain(known): number for number, known in enumerate(probe.classes)}
    found = np.full(len(table), np.nan)
    for row, cell in enumerate(table.iloc[:, names.index(label)].tolist()):
        if pd.api.types.is_scalar(cell) and pd.isna(cell):
            continue
        place = f"{where}: row {row + 1}, column {label!r}: {str(cell)!r:.40}"
        if probe.classes:
            if _plain(cell) not in numbers:
                known = ", ".join(map(str, probe.classes[:10]))
                raise UserError(f"{place} is no class of the probe, which are {known}")
            found[row] = numbers[_plain(cell)]
        else:
            try:
                found[row] = float(cell)
            except (TypeError, ValueError):
                raise UserError(f"{place} is no number, which the probe predicts") from None
    if np.isnan(found).all():
        raise UserError(f"{where}: column {label!r} has no labels")
    return found


def _plain(label: object) -> str:
    """One spelling for 1, 1.0 and "1": another file may write the same class in another way."""
    text = str(label).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").lstrip("-").isdecimal() else text


def _predicted_in_words(probe: SavedProbe, outputs: np.ndarray) -> str:
    if not probe.classes:
        low, mean, high = outputs.min(), outputs.mean(), outputs.max()
        return f"predicted {mean:.4g} on average, from {low:.4g} to {high:.4g}"
    counts = Counter(outputs.argmax(axis=1).tolist()).most_common()
    shown = [f"{n:,} × {str(probe.classes[k])!r:.40}" for k, n in counts[:4]]
    return "predicted " + ", ".join([*shown, *["…"] * (len(counts) > 4)])


def _how_right(probe: SavedProbe, outputs: np.ndarray, truth: np.ndarray) -> str:
    """Accuracy and AUROC, or R², of the rows that have a label."""
    known = ~np.isnan(truth)
    of = "" if known.all() else f" ({known.sum():,} with a label)"
    outputs, truth = outputs[known], truth[known]
    if not probe.classes:
        spread = ((truth - truth.mean()) ** 2).sum()
        error = ((truth - outputs[:, 0]) ** 2).sum()
        return f"R² {1 - error / spread:.3f}{of}" if spread else f"R² undefined: one label only{of}"
    accuracy = (outputs.argmax(axis=1) == truth).mean()
    return f"accuracy {accuracy:.3f}, AUROC {_auroc(outputs, truth)}{of}"


def _auroc(probabilities: np.ndarray, truth: np.ndarray) -> str:
    """Of the last of two classes; of more, the mean of those that are there (one against all)."""
    from sklearn.metrics import roc_auc_score

    ranked: Sequence[int] = range(probabilities.shape[1])
    if len(ranked) == 2:
        ranked = [1]
    found = [
        roc_auc_score(truth == k, probabilities[:, k])
        for k in ranked
        if 0 < (truth == k).sum() < len(truth)
    ]
    return f"{np.mean(found):.3f}" if found else "undefined (one class only)"
