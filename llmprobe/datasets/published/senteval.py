"""Sentence classification as SentEval (Conneau and Kiela, LREC 2018) collected it.

MR, CR, SUBJ and MPQA are the files that SentEval made: lower case, tokens apart. TREC is its
authors' file, out of which SentEval also deletes the characters ` and '.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.published.files import FILES_OF, KnownFile, fetch, on_github, on_web
from llmprobe.datasets.published.hub import SOCHER
from llmprobe.datasets.published.reading import published, read_lines, require_option
from llmprobe.datasets.registry import dataset

SENTEVAL = (
    "Conneau and Kiela (2018), SentEval: an evaluation toolkit for universal sentence "
    "representations, LREC"
)
# SentEval makes these files out of an archive; this repository has the result, as it lays it out.
_MADE = ("senteval", "FreedomIntelligence/qnn")
_COMMITS = ("a45c6ae2535d12a191858907ead860eefd499f16", "b47a07f232fee6b71a38efaa50a3f467a2cc7885")
_TREEBANK = ("senteval", "PrincetonML/SIF", "006f00449589393e1f692e57e6616c05667c21f0")
_QUESTIONS = "https://cogcomp.seas.upenn.edu/Data/QA/QC/"

SST2 = {
    "train": on_github(*_TREEBANK, "data/sentiment-train", size=3_700_000),
    "dev": on_github(*_TREEBANK, "data/sentiment-dev", size=95_000),
    "test": on_github(*_TREEBANK, "data/sentiment-test", size=195_000),
}
TREC = {
    "train": on_web(
        "senteval", f"{_QUESTIONS}train_5500.label",
        "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3", 335_858,
    ),
    "test": on_web(
        "senteval", f"{_QUESTIONS}TREC_10.label",
        "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e", 23_354,
    ),
}  # fmt: skip
FILES_OF["senteval/SST2"] = (SST2["test"],)
FILES_OF["senteval/TREC"] = (TREC["train"], TREC["test"])


def _two_files(stem: str, files: tuple[KnownFile, KnownFile], question: str, citation: str) -> None:
    """Register a dataset with a sentence a line; the first file is class 0, the second 1."""
    name = f"senteval/{stem}"
    FILES_OF[name] = files

    def build() -> ConceptDataset:
        parts = [
            read_lines(fetch(file, name), lambda line: {"text": line}, "text", "latin-1").assign(
                label=label
            )
            for label, file in enumerate(FILES_OF[name])
        ]
        return published(
            name,
            pd.concat(parts, ignore_index=True),
            FILES_OF[name],
            description=question,
            citation=f"{SENTEVAL}; {citation}",
        )

    dataset(name, "senteval", summary=question)(build)


_two_files(
    "MR",
    (
        on_github(*_MADE, _COMMITS[1], "data/MR/rt-polarity.neg", size=620_000),
        on_github(*_MADE, _COMMITS[0], "data/MR/rt-polarity.pos", size=640_000),
    ),
    "Is a sentence from a film review negative (0) or positive (1)?",
    "Pang and Lee (2005), Seeing stars, ACL",
)
_two_files(
    "CR",
    (
        on_github(*_MADE, _COMMITS[1], "data/CR/custrev.neg", size=130_000),
        on_github(*_MADE, _COMMITS[0], "data/CR/custrev.pos", size=226_000),
    ),
    "Is a customer's sentence on a product negative (0) or positive (1)?",
    "Hu and Liu (2004), Mining and summarizing customer reviews, KDD",
)
_two_files(
    "SUBJ",
    (
        on_github(*_MADE, _COMMITS[1], "data/SUBJ/subj.subjective", size=640_000),
        on_github(*_MADE, _COMMITS[0], "data/SUBJ/subj.objective", size=674_000),
    ),
    "Is a sentence about a film subjective (0) or objective (1)?",
    "Pang and Lee (2004), A sentimental education, ACL",
)
_two_files(
    "MPQA",
    (
        on_github(*_MADE, _COMMITS[0], "data/MPQA/mpqa.neg", size=152_000),
        on_github(*_MADE, _COMMITS[0], "data/MPQA/mpqa.pos", size=57_000),
    ),
    "Is a phrase from the news negative (0) or positive (1)?",
    "Wiebe, Wilson and Cardie (2005), Annotating expressions of opinions and emotions in language, "
    "Language Resources and Evaluation 39",
)


@dataset("senteval/SST2", "senteval")
def sst2(split: str = "test") -> ConceptDataset:
    """Is a sentence from a film review negative (0) or positive (1)?

    Parameters
    ----------
    split
        "test" (1,821 sentences), "dev" (872), or "train": sentences and phrases out of them, so
        that near copies stand on both sides of any split.

    Raises
    ------
    UserError
        Another split, or the file cannot be had.
    """

    def parse(line: str) -> dict[str, object]:
        text, label = line.split("\t")
        return {"text": text.strip(), "label": ("0", "1").index(label)}

    require_option("senteval/SST2", "split", split, list(SST2))
    file = SST2[split]
    return published(
        "senteval/SST2",
        read_lines(fetch(file, "senteval/SST2"), parse, "a sentence, a tab, and 0 or 1"),
        [file],
        description="Is a sentence from a film review negative (0) or positive (1)?",
        citation=f"{SENTEVAL}; {SOCHER}",
    )


@dataset(
    "senteval/TREC", "senteval", summary="Which of six kinds of answer does a question ask for?"
)
def trec(split: str = "all") -> ConceptDataset:
    """Does a question ask for an abbreviation, description, entity, human, location or number?

    Labels ABBR, DESC, ENTY, HUM, LOC and NUM; the finer class is the field ``kind``.

    Parameters
    ----------
    split
        "train" (5,452 questions), "test" (500), or "all" of them.

    Raises
    ------
    UserError
        Another split, or a file cannot be had.
    """
    require_option("senteval/TREC", "split", split, [*TREC, "all"])
    chosen: Sequence[str] = list(TREC) if split == "all" else [split]
    form = "CLASS:kind, a space and a question"
    parts = [
        read_lines(fetch(TREC[part], "senteval/TREC"), _question, form, "latin-1").assign(
            split=part
        )
        for part in chosen
    ]
    return published(
        "senteval/TREC",
        pd.concat(parts, ignore_index=True),
        [TREC[part] for part in chosen],
        description="Does a question ask for an abbreviation (ABBR), description (DESC), entity "
        "(ENTY), human (HUM), location (LOC) or number (NUM)?",
        citation=f"{SENTEVAL}; Li and Roth (2002), Learning question classifiers, COLING",
    )


def _question(line: str) -> dict[str, object]:
    label, rest = line.split(":", 1)
    kind, text = rest.split(" ", 1)
    if label not in ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"):
        raise ValueError(label)
    return {"text": text.strip(), "label": label, "kind": kind}
