"""The questions that are asked of every curve, and the types of their answers.

A question that nothing was computed for is “not asked”. “No” is a claim, as “yes” is: it needs an
interval that ends within `MARGIN`. Where neither holds, the answer is “unclear”.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Literal

Word = Literal["yes", "no", "unclear", "does not apply", "not asked"]

MARKS: Mapping[Word, str] = {
    "yes": "✓",
    "no": "✗",
    "unclear": "?",
    "does not apply": "–",
    "not asked": "·",
}
"""The mark of each answer, where there is little room."""
MARGIN = 0.05
"""The largest difference that counts as nothing, in accuracy, AUROC or R²: “no” needs an interval
that ends within it. It is the least that a few hundred units can exclude, since at chance 400 units
have an interval of ± 0.05. It is also half of 0.1, a gain that one would act on."""
TRANSFER_MARGIN = 0.1
"""The same for the AUROC on other sets, which moves faster than accuracy: for two normal classes of
equal size, an AUROC of 0.6 is an accuracy of 0.57."""


@dataclass(frozen=True)
class Question:
    """What is asked of every curve."""

    name: str
    """Its name in tables and verdicts."""
    asks: str
    """The question as a sentence."""
    unasked: str
    """The reason why there is no answer, where nothing was computed for one."""


QUESTIONS: Mapping[str, Question] = {
    "above_chance": Question(
        "above chance", "Is any layer above chance, given that the best is the best of many?", ""
    ),
    "beyond_text": Question(
        "beyond text",
        "Does the best layer tell more than the text alone, such as its words?",
        "No rival that reads the text alone was asked for (probe.controls).",
    ),
    "beyond_untrained": Question(
        "beyond untrained",
        "Does it tell more than the same network with random weights?",
        "The untrained network was not asked for (probe.controls: random_weights).",
    ),
    "stable": Question(
        "stable", "Would other examples, folds or groups give such a curve?", "Nothing to tell by."
    ),
    "transfers": Question(
        "transfers",
        "Does its probe read the same in other forms or datasets?",
        "No other form, wording or dataset was tried (transfer): it may read one of them alone.",
    ),
    "said": Question(
        "said",
        "Does the model’s own last layer say it?",
        "What the model says was not asked (question and answers of a dataset).",
    ),
    "used": Question(
        "used", "Does the model use it?",
        "Nothing was changed in the model, so whether it uses the direction is not known.",
    ),
    "linear": Question(
        "linear", "Is all of it linear?", "No probe that is not linear was compared."
    ),
}  # fmt: skip
"""The questions by their keys in evidence.json, in the order in which they are asked."""


@dataclass(frozen=True)
class Answer:
    """The answer to one question about one curve."""

    answer: Word
    sentence: str
    """The sentence that it rests on."""
    value: float = nan
    """The number that it was decided by, if any."""
    low: float = nan
    """The lower end of its 95 % interval."""
    high: float = nan
    """The upper end of its 95 % interval."""
    number: str = ""
    """The number and its interval as text."""
    clause: str = ""
    """The answer in the verdict; empty where the verdict does not mention it."""

    def as_json(self) -> dict[str, Any]:
        """Return the answer as evidence.json has it; what is not known is null."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high")}
        known = {name: None if isnan(number) else number for name, number in numbers.items()}
        return {"answer": self.answer, **known, "sentence": self.sentence}


@dataclass(frozen=True)
class Evidence:
    """All answers about one curve."""

    model: str
    dataset: str
    position: str
    questions: Mapping[str, Answer]
    """Key of `QUESTIONS` -> the answer, in their order."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Return model, dataset and position, as `Curve.key` does."""
        return self.model, self.dataset, self.position

    @property
    def line(self) -> str:
        """Return the verdict: what was answered, and last what was not asked."""
        clauses = [answer.clause for answer in self.questions.values() if answer.clause]
        unasked = [
            QUESTIONS[key].name
            for key, answer in self.questions.items()
            if answer.answer == "not asked"
        ]
        return "; ".join([*clauses, *([f"not asked: {', '.join(unasked)}"] if unasked else [])])

    @property
    def doubts(self) -> list[str]:
        """Return the sentences of the answers that are “no” or “unclear”."""
        answers = self.questions.values()
        return [one.sentence for one in answers if one.answer in ("no", "unclear")]

    def as_json(self) -> dict[str, Any]:
        """Return an entry of evidence.json."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "position": self.position,
            "line": self.line,
            "questions": {key: answer.as_json() for key, answer in self.questions.items()},
        }


def unasked(key: str) -> Answer:
    """Return the answer to a question that nothing was computed for."""
    return Answer("not asked", QUESTIONS[key].unasked)
