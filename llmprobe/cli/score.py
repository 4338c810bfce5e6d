"""``llmprobe score PROBE --file F``: a saved probe as a classifier."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llmprobe.cli.command import add_reading, command
from llmprobe.ground.text import printable

if TYPE_CHECKING:
    from llmprobe.monitors.new_texts import ReadingOptions

log = logging.getLogger(__name__)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "probe", type=Path, metavar="PROBE", help="RUN/probes/MODEL/DATASET.safetensors"
    )
    parser.add_argument(
        "--file", type=Path, required=True, metavar="FILE",
        help="a .csv, .json, .parquet, … file, or - for standard input, of any length",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=["text", "jsonl", "csv"],
        help="of standard input: a text on each line (the default), an object on each line, or a "
        "table",
    )  # fmt: skip
    parser.add_argument("--text", metavar="COLUMN", help="default: text, statement or sentence")
    parser.add_argument("--label", metavar="COLUMN", help="true labels, to measure the accuracy")
    parser.add_argument("--layer", type=int, metavar="N", help="default: the probe's best one")
    parser.add_argument(
        "--fpr", type=float, metavar="RATE",
        help="flag texts at a false positive rate of 0.1, 0.05, 0.01 or 0.001",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=float, metavar="SCORE", help="flag texts above this score instead"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="default: CSV to stdout; with a file, the same command resumes after an interruption",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=int, metavar="N",
        help="texts that are read at a time; default: 2048, or 256 of standard input",
    )  # fmt: skip
    parser.add_argument("--encoding", help="of a text file that is not UTF-8")
    parser.add_argument("--delimiter", help="between cells, if neither a comma nor a .tsv's tab")
    parser.add_argument(
        "--quoting", help="minimal: quotation marks enclose cells; none: they are characters"
    )
    parser.add_argument(
        "--model", help="a name, id or folder to use even if its files are not the probe's own"
    )
    add_reading(parser)


@command("score", "Use a saved probe as a classifier of the texts in a file.", _add_arguments)
def score(options: argparse.Namespace) -> None:
    """Print or write the scored table, and a summary on stderr."""
    from llmprobe.ground.errors import UserError
    from llmprobe.monitors.kept_outputs import forget, kept_beside
    from llmprobe.monitors.new_texts import ReadingOptions
    from llmprobe.monitors.scoring import BATCH, require_writable_file, score_file, write_scored
    from llmprobe.results.folder import require_writable_folder

    if options.batch is not None and options.batch < 1:
        raise UserError(f"--batch {options.batch}: should be 1 or more")
    if options.out is not None:
        require_writable_file(options.out, options.file)
        require_writable_folder(options.out.parent)
    reading = ReadingOptions(
        options.model, options.template, options.too_long, options.trust_remote_code
    )
    if str(options.file) == "-":
        _score_stream(options, reading)
        return
    if options.format is not None:
        raise UserError("--format: belongs to --file -; that of a file is what its name ends in")
    keep = None if options.out is None else kept_beside(options.out)
    scored = score_file(
        options.probe, options.file, text=options.text, label=options.label,
        layer=options.layer, fpr=options.fpr, threshold=options.threshold,
        encoding=options.encoding, delimiter=options.delimiter, quoting=options.quoting,
        options=reading, batch=options.batch or BATCH, keep=keep,
    )  # fmt: skip
    if keep is None:
        _print(scored.table.to_csv(index=False))
    else:
        write_scored(scored.table, options.out)
        forget(keep)
    log.info(scored.summary)


def _score_stream(options: argparse.Namespace, reading: ReadingOptions) -> None:
    """Score standard input, and print or write the rows while more texts come in."""
    from llmprobe.ground.errors import UserError
    from llmprobe.monitors.scoring import Scorer, csv_of, write_all_scored
    from llmprobe.monitors.text_stream import TEXTS_AT_A_TIME, tables_of

    if options.quoting is not None:
        raise UserError("--quoting: belongs to a file, not to standard input")
    scorer = Scorer(
        options.probe, text=options.text, label=options.label, layer=options.layer,
        fpr=options.fpr, threshold=options.threshold, options=reading,
    )  # fmt: skip
    at_a_time = options.batch or TEXTS_AT_A_TIME
    tables = tables_of(
        sys.stdin.buffer, options.format, options.encoding, options.delimiter, at_a_time
    )
    scored = (scorer.score(table, where, "stdin") for table, where in tables)
    if options.out is None:
        for csv in csv_of(scored):
            _print(csv)
    else:
        write_all_scored(scored, options.out)
    log.info("stdin: %s", scorer.summary)


def _print(csv: str) -> None:
    print(printable(csv, kept="\n\t") if sys.stdout.isatty() else csv, end="", flush=True)
