"""The nine datasets of "Exploring Concept Depth" (Jin et al., COLING 2025), as its code reads them.

Class 0 comes first, then class 1, each in the file's order: the study shuffles with a seed, so its
split depends on the order. Note which class is which: cities has the true statements as class 0.

common_claim is sliced: ``slice: paper`` is the first 3,000 of each class; ``released`` is all
12,063 true and 4,321 false ones. The published accuracies are fractions of 40 % of the latter, so
the majority class has .736.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from llmprobe.datasets.published.entry import PublishedDataset, register
from llmprobe.datasets.published.files import KnownFile, on_github
from llmprobe.datasets.published.hub import IMDB_TEST, MAAS, SOCHER
from llmprobe.datasets.published.reading import (
    in_classes,
    read_examples,
    read_lines,
    read_separated,
)
from llmprobe.datasets.tables import read_table

STUDY = (
    "Jin et al. (2025), Exploring concept depth: how large language models acquire knowledge and "
    "concepts at different layers?, COLING, arXiv 2404.07066"
)
RELEASED = "According to the sentence, judge the emotion is Positive or Negative."
"""The released code overwrites every prompt with this one before it reads any hidden state."""
BEFORE, AFTER = "{prompt} {text}", "{text} {prompt}"


def _statements(
    column: str, zero: object, one: object, first: int | None = None, text: str = "statement"
) -> Callable[[Path], pd.DataFrame]:
    """Return the parser of a table with a column of labels; ``first`` is how many of each class."""

    def parse(path: Path) -> pd.DataFrame:
        table = read_separated(path).rename(columns={text: "text"})
        # An index that pandas wrote.
        table = table.drop(columns="Unnamed: 0", errors="ignore")
        return in_classes(table, column, zero, one, first)

    return parse


def _common_claim(path: Path, slice: str = "paper") -> pd.DataFrame:
    first = 3000 if slice == "paper" else None
    return _statements("label", "True", "False", first, "examples")(path)


def _stsa(path: Path) -> pd.DataFrame:
    def parse(line: str) -> dict[str, object]:
        label, text = line.split(" ", 1)
        return {"class": int(label), "text": text}

    return in_classes(read_lines(path, parse, "'0' or '1', a space and a text"), "class", 0, 1)


def _imdb(path: Path) -> pd.DataFrame:
    return in_classes(read_table(path).rename(columns={"label": "class"}), "class", 0, 1, 1000)


def _sarcasm(path: Path) -> pd.DataFrame:
    def parse(line: str) -> dict[str, object]:
        row = json.loads(line)
        return {
            "text": row["headline"],
            "is_sarcastic": int(row["is_sarcastic"]),
            "article_link": row.get("article_link", ""),
        }

    form = "JSON with headline and is_sarcastic"
    return in_classes(read_lines(path, parse, form), "is_sarcastic", 1, 0, 3000)


def _strategyqa(path: Path) -> pd.DataFrame:
    rows = []
    for example in read_examples(path):
        # The explanation goes into the text, the answer before it does not.
        reason = example["target"]
        for answer in ("Yes.", "No."):
            if reason.startswith(answer):
                reason = reason.removeprefix(answer).strip()
                break
        question = example["input"]
        yes = example["target_scores"]["Yes"]
        rows.append({"text": f"{question} {reason}", "yes": int(yes), "question": question})
    return in_classes(pd.DataFrame(rows), "yes", 1, 0)


def _coinflip(path: Path) -> pd.DataFrame:
    table = pd.DataFrame(read_examples(path))[["question", "answer"]]
    return in_classes(table.rename(columns={"question": "text"}), "answer", "yes", "no")


def _register(
    stem: str,
    question: str,
    files: tuple[KnownFile, ...],
    parser: Callable[..., pd.DataFrame],
    prompt: str,
    frame: str,
    citation: str,
    **more: Any,
) -> None:
    """Register one of the study's datasets.

    Parameters
    ----------
    prompt
        The paper's.
    frame
        How ``{prompt}`` and ``{text}`` follow each other.
    citation
        Of the data; the study's is added.
    more
        Other fields of the entry.
    """
    paper, released = (frame.replace("{prompt}", words) for words in (prompt, RELEASED))
    prompts = {"paper": paper, "released_code": released, "none": ""}
    register(
        PublishedDataset(
            f"jin2024/{stem}", question, files, f"{STUDY}; {citation}", parser,
            template=paper, prompts=prompts, family="jin2024", **more,
        )
    )  # fmt: skip


def _file(name: str, sha256: str, size: int) -> tuple[KnownFile, ...]:
    """Return a file of the study's repository."""
    commit = "4902d58365f7cdc603cfe71c0b627dfbcd1a1125"
    return (on_github("jin2024", "Luckfort/CD", commit, f"dataset/{name}", sha256, size),)


_MARKS = "Marks and Tegmark (2023), The geometry of truth, arXiv 2310.06824"
_JUDGE = "Judge the statement is True or False."

_register(
    "cities", "Is a city in that country: true (0) or false (1)?",
    _file("cities.csv", "f2560a0c1758c69935b50125111b574b71896bb75930dd87b1d8c973c1fa086e", 95_041),
    _statements("label", 1, 0), _JUDGE, BEFORE, _MARKS, group="city",
)  # fmt: skip
_register(
    "common_claim", "Do people call a common claim true (0) or false (1)?",
    _file("common_claim.csv", "acc78556774ed0b5c3501bb4c254adebc692bab52cb5c6f39d91aad09cdf554f",
          1_607_947),
    _common_claim, _JUDGE, BEFORE,
    "Casper et al. (2023), Explore, establish, exploit: red teaming language models from scratch, "
    "arXiv 2306.09442",
    parser_options={"slice": ("paper", "released")},
)  # fmt: skip
_register(
    "counterfact", "Is a statement of fact true (0) or false (1)?",
    _file("counterfact.csv", "5af51456d6dbd3a53d8e2ee6e4aadaca7eb02ff9136ad825866458e7283b5273",
          3_110_000),
    _statements("label", 1, 0, first=2000), "Judge the statement is true or false.", BEFORE,
    f"Meng et al. (2022), Locating and editing factual associations in GPT, NeurIPS; {_MARKS}",
    group="subject",
)  # fmt: skip
_register(
    "hateeval", "Is a tweet hate speech (0) or not (1)?",
    _file("hateeval.tsv", "fdd34bf56f0afa744ee7484774d259d83a756033cd8049ded81bd55d2fcb1272",
          1_550_000),
    _statements("HS", 1, 0, first=3000, text="text"),
    "According to the comment, tell whether they present hate speech or not.", AFTER,
    "Basile et al. (2019), SemEval-2019 task 5: multilingual detection of hate speech against "
    "immigrants and women in Twitter",
)  # fmt: skip
_register(
    "stsa", "Is a sentence from a film review negative (0) or positive (1)?",
    _file("stsa.binary.train", "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
          740_000),
    _stsa,
    "The sentence above is a movie review and reflects the writer's overall intention for this "
    "review. According to the sentence, judge whether the emotion is Positive or Negative.",
    AFTER, SOCHER,
)  # fmt: skip
_register(
    "imdb", "Is a film review on IMDb negative (0) or positive (1)?", IMDB_TEST, _imdb,
    "According to the movie review, judge whether it is Positive or Negative.", AFTER, MAAS,
)  # fmt: skip
# The code reads a sarcasm.json that is not in its repository. Its authors' file has since been
# extended, and which version the study used is not known.
_HEADLINES = on_github(
    "jin2024", "rishabhmisra/News-Headlines-Dataset-For-Sarcasm-Detection",
    "15c3b49bfdf018eb8f5961fdb4f511ba86cd531f", "Sarcasm_Headlines_Dataset.json", size=6_100_000,
)  # fmt: skip
_register(
    "sarcasm", "Is a headline sarcastic (0) or not (1)?", (_HEADLINES,), _sarcasm,
    "Task: Detect sarcasm, help me identify whether this sentence is sarcastic.\n"
    "First, we need to understand what sarcasm is. Sarcasm is a form of verbal irony, \n"
    "where the intended meaning of the words is the opposite of the literal meaning. \n"
    "In other words, the speaker is saying one thing but meaning the opposite. ",
    # No space before the text, as in the study.
    "{prompt}{text} Think carefully according to the sentence. Is there any sarcasm in this "
    "sentence? Please answer Yes or No.",
    "Misra and Arora (2023), Sarcasm detection using news headlines dataset, AI Open 4",
)  # fmt: skip
_register(
    "strategyqa", "Is a question's answer, explained, yes (0) or no (1)?",
    _file("StrategyQA_task.json",
          "60af9081fed20102fd8bb1e02dc7d9f12238efcba33e4c1a56b4d61cb6409803", 854_248),
    _strategyqa,
    "Judge the question is true or false?\n"
    "Q: Will Queen Elizabeth be buried in the Pantheon?\n"
    "Let us think step by step. The stem of the sentence is Queen Elizabeth, burial, pantheon. "
    "Inference: First, the Pantheon is a church, so it is possible that she could be buried "
    "there. Second, Queen Elizabeth II is still alive, so she has not been buried yet. Third, "
    "even if she were to be buried in the Pantheon, it is unlikely that we would know about it "
    "ahead of time, so it is hard to say for sure.\n"
    "pred_ans: no",
    "{prompt}{text} Let us think step by step...",
    "Geva et al. (2021), Did Aristotle use a laptop?, TACL 9; BIG-bench (2022)",
)  # fmt: skip
_register(
    "coinflip", "Is a coin still heads up, yes (0) or no (1)?",
    _file("coin_flip.json", "68cf201737a1463ef6bed5419622805a8934d92bff6a28a9dfbf83be3135ba5a",
          136_576),
    _coinflip,
    "According to the flipping process above, determine if a coin remains heads up after it is "
    "either flipped or left unflipped by individuals. Therefore, the answer (Yes or No) is?",
    AFTER,
    "Wei et al. (2022), Chain-of-thought prompting elicits reasoning in large language models, "
    "NeurIPS",
)  # fmt: skip
