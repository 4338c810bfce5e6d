"""Sentence classification as SentEval (Conneau and Kiela, LREC 2018) collected it.

MR, CR, SUBJ and MPQA are the files that SentEval made: lower case, tokens apart. TREC is its
authors' file, out of which SentEval also deletes the characters ` and '. SST2 has 1,821 sentences
to test, 872 in "dev", and sentences and phrases out of them to train, so that near copies stand on
both sides of any split; TREC has 5,452 questions to train and 500 to test.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from llmprobe.datasets.published.entry import PublishedDataset, register
from llmprobe.datasets.published.files import KnownFile, on_github, on_web
from llmprobe.datasets.published.hub import SOCHER
from llmprobe.datasets.published.reading import read_lines

_SENTEVAL = (
    "Conneau and Kiela (2018), SentEval: an evaluation toolkit for universal sentence "
    "representations, LREC"
)
# SentEval makes these files out of an archive; this repository has the result, as it lays it out.
_COMMITS = ("a45c6ae2535d12a191858907ead860eefd499f16", "b47a07f232fee6b71a38efaa50a3f467a2cc7885")
_TREEBANK = ("senteval", "PrincetonML/SIF", "006f00449589393e1f692e57e6616c05667c21f0")


def _made(commit: int, path: str, size: int) -> KnownFile:
    return on_github(
        "senteval", "FreedomIntelligence/qnn", _COMMITS[commit], f"data/{path}", size=size
    )


def _register(
    stem: str,
    question: str,
    files: tuple[KnownFile, ...],
    citation: str,
    parser: Callable[..., pd.DataFrame],
    **more: Any,
) -> None:
    cited = f"{_SENTEVAL}; {citation}"
    name = f"senteval/{stem}"
    register(PublishedDataset(name, question, files, cited, parser, family="senteval", **more))


def _sentences_of_two_classes(*paths: Path) -> pd.DataFrame:
    """Read a sentence a line; those of the first file are class 0, those of the second class 1."""
    tables = [read_lines(path, lambda line: {"text": line}, "text", "latin-1") for path in paths]
    return pd.concat(
        [table.assign(label=label) for label, table in enumerate(tables)], ignore_index=True
    )


def _treebank(path: Path) -> pd.DataFrame:
    def parse(line: str) -> dict[str, object]:
        text, label = line.split("\t")
        return {"text": text.strip(), "label": ("0", "1").index(label)}

    return read_lines(path, parse, "a sentence, a tab, and 0 or 1")


def _trec(*paths: Path) -> pd.DataFrame:
    """Read a question a line; its finer class is the field ``kind``."""

    def parse(line: str) -> dict[str, object]:
        label, rest = line.split(":", 1)
        kind, text = rest.split(" ", 1)
        if label not in ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"):
            raise ValueError(label)
        return {"text": text.strip(), "label": label, "kind": kind}

    form = "CLASS:kind, a space and a question"
    split_of = {file.name: split for split in ("train", "test") for file in _TREC[split]}
    tables = [
        read_lines(path, parse, form, "latin-1").assign(split=split_of[path.name]) for path in paths
    ]
    return pd.concat(tables, ignore_index=True)


_PAIRS = (
    ("MR", "Is a sentence from a film review negative (0) or positive (1)?",
     _made(1, "MR/rt-polarity.neg", 620_000), _made(0, "MR/rt-polarity.pos", 640_000),
     "Pang and Lee (2005), Seeing stars, ACL"),
    ("CR", "Is a customer's sentence on a product negative (0) or positive (1)?",
     _made(1, "CR/custrev.neg", 130_000), _made(0, "CR/custrev.pos", 226_000),
     "Hu and Liu (2004), Mining and summarizing customer reviews, KDD"),
    ("SUBJ", "Is a sentence about a film subjective (0) or objective (1)?",
     _made(1, "SUBJ/subj.subjective", 640_000), _made(0, "SUBJ/subj.objective", 674_000),
     "Pang and Lee (2004), A sentimental education, ACL"),
    ("MPQA", "Is a phrase from the news negative (0) or positive (1)?",
     _made(0, "MPQA/mpqa.neg", 152_000), _made(0, "MPQA/mpqa.pos", 57_000),
     "Wiebe, Wilson and Cardie (2005), Annotating expressions of opinions and emotions in "
     "language, Language Resources and Evaluation 39"),
)  # fmt: skip
"""Each pair's stem and question, the files of class 0 and class 1, and whom to cite."""

for _stem, _question, *_files, _citation in _PAIRS:
    _register(_stem, _question, tuple(_files), _citation, _sentences_of_two_classes)

_SST2 = {
    split: (on_github(*_TREEBANK, f"data/sentiment-{split}", size=size),)
    for split, size in (("train", 3_700_000), ("dev", 95_000), ("test", 195_000))
}
_register(
    "SST2", "Is a sentence from a film review negative (0) or positive (1)?",
    _SST2["test"], SOCHER, _treebank, splits=_SST2,
)  # fmt: skip

_TREC: dict[str, tuple[KnownFile, ...]] = {
    split: (on_web("senteval", f"https://cogcomp.seas.upenn.edu/Data/QA/QC/{name}", digest, size),)
    for split, name, digest, size in (
        ("train", "train_5500.label",
         "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3", 335_858),
        ("test", "TREC_10.label",
         "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e", 23_354),
    )
}  # fmt: skip
_TREC["all"] = _TREC["train"] + _TREC["test"]
_register(
    "TREC", "Which of six kinds of answer does a question ask for?",
    _TREC["all"], "Li and Roth (2002), Learning question classifiers, COLING", _trec, splits=_TREC,
    description="Does a question ask for an abbreviation (ABBR), description (DESC), entity "
    "(ENTY), human (HUM), location (LOC) or number (NUM)?",
)  # fmt: skip
