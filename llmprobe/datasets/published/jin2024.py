"""The nine datasets of "Exploring Concept Depth" (Jin et al., COLING 2025), as its code reads them.

Class 0 comes first, then class 1, each in the file's order: the study shuffles with a seed, so its
split depends on the order. Note which class is which: cities has the true statements as class 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.published.files import FILES_OF, fetch, on_github
from llmprobe.datasets.published.hub import IMDB, MAAS, SOCHER
from llmprobe.datasets.published.reading import (
    in_classes,
    published,
    read_examples,
    read_lines,
    read_separated,
    require_option,
)
from llmprobe.datasets.registry import dataset
from llmprobe.datasets.tables import read_table

STUDY = (
    "Jin et al. (2025), Exploring concept depth: how large language models acquire knowledge and "
    "concepts at different layers?, COLING, arXiv 2404.07066"
)
PROMPTS = ("paper", "released_code", "none")
SLICES = ("paper", "released")
RELEASED = "According to the sentence, judge the emotion is Positive or Negative."
"""The released code overwrites every prompt with this one before it reads any hidden state."""

_CODE = ("jin2024", "Luckfort/CD", "4902d58365f7cdc603cfe71c0b627dfbcd1a1125")
_HEADLINES = (
    "jin2024",
    "rishabhmisra/News-Headlines-Dataset-For-Sarcasm-Detection",
    "15c3b49bfdf018eb8f5961fdb4f511ba86cd531f",
)
_FILES = {
    "cities": on_github(
        *_CODE, "dataset/cities.csv",
        "f2560a0c1758c69935b50125111b574b71896bb75930dd87b1d8c973c1fa086e", 95_041,
    ),
    "common_claim": on_github(
        *_CODE, "dataset/common_claim.csv",
        "acc78556774ed0b5c3501bb4c254adebc692bab52cb5c6f39d91aad09cdf554f", 1_607_947,
    ),
    "counterfact": on_github(
        *_CODE, "dataset/counterfact.csv",
        "5af51456d6dbd3a53d8e2ee6e4aadaca7eb02ff9136ad825866458e7283b5273", 3_110_000,
    ),
    "hateeval": on_github(
        *_CODE, "dataset/hateeval.tsv",
        "fdd34bf56f0afa744ee7484774d259d83a756033cd8049ded81bd55d2fcb1272", 1_550_000,
    ),
    "stsa": on_github(
        *_CODE, "dataset/stsa.binary.train",
        "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338", 740_000,
    ),
    "imdb": IMDB["test"],
    # The code reads a sarcasm.json that is not in its repository. Its authors' file has since been
    # extended, and which version the study used is not known.
    "sarcasm": on_github(*_HEADLINES, "Sarcasm_Headlines_Dataset.json", None, 6_100_000),
    "strategyqa": on_github(
        *_CODE, "dataset/StrategyQA_task.json",
        "60af9081fed20102fd8bb1e02dc7d9f12238efcba33e4c1a56b4d61cb6409803", 854_248,
    ),
    "coinflip": on_github(
        *_CODE, "dataset/coin_flip.json",
        "68cf201737a1463ef6bed5419622805a8934d92bff6a28a9dfbf83be3135ba5a", 136_576,
    ),
}  # fmt: skip
FILES_OF.update({f"jin2024/{name}": (file,) for name, file in _FILES.items()})


@dataclass(frozen=True)
class Task:
    """One of the study's datasets."""

    read: Callable[[Path], pd.DataFrame]
    """From its file to text, label and other columns, in the study's order."""
    question: str
    """What is probed, with the number of each class."""
    prompt: str
    """The paper's."""
    place: str
    """Of the prompt: "before" or "after" the text, or "around" it, which ``tail`` then follows."""
    citation: str
    """Of the data; the study's is added."""
    tail: str = ""
    group: str | None = None
    """The column whose value the statements of a pair share."""

    def template(self, prompts: str) -> str:
        """What the texts are put into, for one of ``PROMPTS``."""
        if prompts == "none":
            return ""
        prompt = self.prompt if prompts == "paper" else RELEASED
        return {
            "before": f"{prompt} {{text}}",
            "after": f"{{text}} {prompt}",
            "around": f"{prompt}{{text}} {self.tail}",  # no space before the text, as in the study
        }[self.place]


def _statements(
    column: str, zero: object, one: object, first: int | None = None, text: str = "statement"
) -> Callable[[Path], pd.DataFrame]:
    def read(path: Path) -> pd.DataFrame:
        table = read_separated(path).rename(columns={text: "text"})
        # An index that pandas wrote.
        table = table.drop(columns="Unnamed: 0", errors="ignore")
        return in_classes(table, column, zero, one, first)

    return read


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


_MARKS = "Marks and Tegmark (2023), The geometry of truth, arXiv 2310.06824"
_JUDGE = "Judge the statement is True or False."
_COMMON_CLAIM = Task(
    _statements("label", "True", "False", first=3000, text="examples"),
    "Do people call a common claim true (0) or false (1)?",
    _JUDGE,
    "before",
    "Casper et al. (2023), Explore, establish, exploit: red teaming language models from scratch, "
    "arXiv 2306.09442",
)
TASKS = {
    "cities": Task(
        _statements("label", 1, 0),
        "Is a city in that country: true (0) or false (1)?",
        _JUDGE,
        "before",
        _MARKS,
        group="city",
    ),
    "counterfact": Task(
        _statements("label", 1, 0, first=2000),
        "Is a statement of fact true (0) or false (1)?",
        "Judge the statement is true or false.",
        "before",
        f"Meng et al. (2022), Locating and editing factual associations in GPT, NeurIPS; {_MARKS}",
        group="subject",
    ),
    "hateeval": Task(
        _statements("HS", 1, 0, first=3000, text="text"),
        "Is a tweet hate speech (0) or not (1)?",
        "According to the comment, tell whether they present hate speech or not.",
        "after",
        "Basile et al. (2019), SemEval-2019 task 5: multilingual detection of hate speech against "
        "immigrants and women in Twitter",
    ),
    "stsa": Task(
        _stsa,
        "Is a sentence from a film review negative (0) or positive (1)?",
        "The sentence above is a movie review and reflects the writer's overall intention for this "
        "review. According to the sentence, judge whether the emotion is Positive or Negative.",
        "after",
        SOCHER,
    ),
    "imdb": Task(
        _imdb,
        "Is a film review on IMDb negative (0) or positive (1)?",
        "According to the movie review, judge whether it is Positive or Negative.",
        "after",
        MAAS,
    ),
    "sarcasm": Task(
        _sarcasm,
        "Is a headline sarcastic (0) or not (1)?",
        "Task: Detect sarcasm, help me identify whether this sentence is sarcastic.\n"
        "First, we need to understand what sarcasm is. Sarcasm is a form of verbal irony, \n"
        "where the intended meaning of the words is the opposite of the literal meaning. \n"
        "In other words, the speaker is saying one thing but meaning the opposite. ",
        "around",
        "Misra and Arora (2023), Sarcasm detection using news headlines dataset, AI Open 4",
        tail="Think carefully according to the sentence. Is there any sarcasm in this sentence? "
        "Please answer Yes or No.",
    ),
    "strategyqa": Task(
        _strategyqa,
        "Is a question's answer, explained, yes (0) or no (1)?",
        "Judge the question is true or false?\n"
        "Q: Will Queen Elizabeth be buried in the Pantheon?\n"
        "Let us think step by step. The stem of the sentence is Queen Elizabeth, burial, pantheon. "
        "Inference: First, the Pantheon is a church, so it is possible that she could be buried "
        "there. Second, Queen Elizabeth II is still alive, so she has not been buried yet. Third, "
        "even if she were to be buried in the Pantheon, it is unlikely that we would know about it "
        "ahead of time, so it is hard to say for sure.\n"
        "pred_ans: no",
        "around",
        "Geva et al. (2021), Did Aristotle use a laptop?, TACL 9; BIG-bench (2022)",
        tail="Let us think step by step...",
    ),
    "coinflip": Task(
        _coinflip,
        "Is a coin still heads up, yes (0) or no (1)?",
        "According to the flipping process above, determine if a coin remains heads up after it "
        "is either flipped or left unflipped by individuals. Therefore, the answer (Yes or No) is?",
        "after",
        "Wei et al. (2022), Chain-of-thought prompting elicits reasoning in large language models, "
        "NeurIPS",
    ),
}


@dataset("jin2024/common_claim", "jin2024", summary=_COMMON_CLAIM.question)
def common_claim(prompts: str = "paper", slice: str = "paper") -> ConceptDataset:
    """Do people call a common claim true (0) or false (1)?

    Parameters
    ----------
    prompts
        What the texts are put into: the "paper"'s prompt, the one of the "released_code", or
        "none".
    slice
        "paper": the first 3,000 of each class. "released": all 12,063 true and 4,321 false ones;
        the published accuracies are fractions of 40 % of these, so the majority class has .736.

    Raises
    ------
    UserError
        An option has a value that is not allowed, or the file cannot be had.
    """
    require_option("jin2024/common_claim", "slice", slice, SLICES)
    task = _COMMON_CLAIM
    if slice == "released":
        task = replace(task, read=_statements("label", "True", "False", text="examples"))
    return _build("common_claim", task, prompts)


def _build(name: str, task: Task, prompts: str) -> ConceptDataset:
    name = f"jin2024/{name}"
    require_option(name, "prompts", prompts, PROMPTS)
    files = FILES_OF[name]
    table = task.read(fetch(files[0], name))
    return published(
        name,
        table,
        files,
        description=task.question,
        citation=f"{STUDY}; {task.citation}",
        groups=table[task.group] if task.group else None,
        template=task.template(prompts),
    )


def _register(name: str, task: Task) -> None:
    def build(prompts: str = "paper") -> ConceptDataset:
        return _build(name, task, prompts)

    build.__doc__ = f"""{task.question}

    Parameters
    ----------
    prompts
        What the texts are put into: the "paper"'s prompt, the one of the "released_code", or
        "none".

    Raises
    ------
    UserError
        Another value, or the file cannot be had.
    """
    dataset(f"jin2024/{name}", "jin2024")(build)


for _name, _task in TASKS.items():
    _register(_name, _task)
