"""Names of table files, file names of datasets, and fields of templates."""

from __future__ import annotations

import re
import string

from llmprobe.ground.files import digest

TABLE_SUFFIXES = (
    ".csv", ".tsv", ".json", ".jsonl", ".parquet",
    ".csv.gz", ".tsv.gz", ".json.gz", ".jsonl.gz",
)  # fmt: skip
"""Endings of the table files that can be read."""


def table_suffix(name: str) -> str:
    """Return the ending of a table file, in lower case; "" for another name."""
    return max(filter(name.lower().endswith, TABLE_SUFFIXES), key=len, default="")


def file_name(name: str) -> str:
    """Return a dataset's name in a form that file names can have.

    The slash in the name of a published dataset becomes a hyphen, and ``DATASET:LABEL`` becomes
    ``DATASET-LABEL``. In the label, which can be any text, characters other than letters, digits,
    spaces and ``_.+-`` become ``%`` and their code point; a long label is cut and ends in a digest.
    So different labels have different names.
    """
    dataset, colon, label = name.partition(":")
    label = re.sub(r"[^\w.+ -]", lambda mark: f"%{ord(mark[0]):X}", label)
    if len(label.encode()) > 80:
        label = f"{label.encode()[:60].decode(errors='ignore')}-{digest(label)[:16]}"
    return dataset.replace("/", "-") + (f"-{label}" if colon else "")


def check_template(template: str) -> None:
    """Raise ``ValueError`` unless a template has fields, its braces match, and no field is wide.

    ``{text:>9999999999}`` would make gigabytes of spaces.
    """
    if not template_fields(template):
        raise ValueError("has no field; it needs at least {text}")
    for _, name, form, _ in string.Formatter().parse(template):
        if form and re.search(r"\d{4}|[{}]", form):
            raise ValueError(f"the format of {{{name}:{form:.20}}} is not allowed; a width or a "
                             "precision is a number of three digits at most")  # fmt: skip


def template_fields(template: str) -> list[str]:
    """Return the names of a template's fields; raise ``ValueError`` when braces do not match."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
