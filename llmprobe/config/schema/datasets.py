"""Datasets: where examples come from, their columns, texts and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, PositiveInt, field_validator, model_validator

from llmprobe.config.schema.names import check_template, file_name, table_suffix
from llmprobe.config.schema.section import Section, Seed, check_file_name


class PerturbConfig(Section):
    """A change of the texts before a model reads them; labels and groups stay."""

    kind: Literal["prefix_noise", "typos", "case", "negation", "paraphrase_template"]
    """What changes. ``prefix_noise``: "aaa" or "bbb" right before the text (Jin et al. 2024).
    ``typos``: letters swapped, dropped or doubled. ``case``: letters as ``to`` says. ``negation``:
    a negated statement with the same label, and ``paraphrase_template``: another sentence for the
    same fact, where the dataset offers them (``llmprobe show NAME``)."""
    seed: Seed = 0
    """The seed of what is drawn: which letters, words or templates."""
    rate: float = Field(default=0.1, gt=0, le=1)
    """The share of words of four letters or more that get a typo, for ``typos``."""
    to: Literal["upper", "lower", "title", "random"] = "upper"
    """The case of all letters, for ``case``; ``random`` tosses a coin for each letter."""
    templates: tuple[str, ...] = ()
    """Templates in place of the dataset's own, for ``paraphrase_template``; each text gets one,
    filled from the fields of the dataset."""

    @field_validator("templates")
    @classmethod
    def _each_has_fields(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            check_template(template)
        return templates

    @model_validator(mode="after")
    def _options_of_its_kind(self) -> PerturbConfig:
        owners = {"rate": "typos", "to": "case", "templates": "paraphrase_template"}
        for key, owner in owners.items():
            if self.kind != owner and getattr(self, key) != _default(self, key):
                raise ValueError(f"{key} belongs to {owner}, not to {self.kind}")
        return self


class DropConfig(Section):
    """Examples that are left out of a dataset."""

    unlabelled: bool = False
    """Whether to leave out examples without a label: an empty one, -1, or a word that means none,
    such as "N/A" or "unlabeled"."""
    classes_under: int = Field(default=0, ge=0)
    """Classes with fewer examples than this are left out."""


class PairsConfig(Section):
    """Columns of contrast pairs."""

    positive: str
    """Column of the texts with the concept."""
    negative: str
    """Column of the texts without it."""


class HeldOutConfig(Section):
    """The rows of a table that are scored, by probes that are fitted on the others."""

    column: str
    """Column that marks the rows to score."""
    value: str | int | float | bool = "test"
    """The value of the column in the rows to score."""


_FORMS = {
    "text": ("text",),
    "messages": ("messages",),
    "prompt": ("prompt", "response", "system"),
    "pairs": ("pairs",),
    "tokens": ("tokens", "tags"),
}
"""The keys of each form in which a table can have its texts; a dataset has one form."""

_COLUMNS = ("label", "group", "start", "end", *(key for keys in _FORMS.values() for key in keys))


_NOT_WORDS = (
    "YAML reads yes, no, true and false as something else than words; put labels and words in "
    "quotation marks"
)


class DatasetConfig(Section):
    """A dataset: one that is known by name, a file of your own, or one on the Hub."""

    name: str = ""
    """A known name (``llmprobe ls datasets``); beside ``path`` or ``hub``, the name in tables."""
    path: Path | None = None
    """A .csv, .tsv, .json, .jsonl (each also .gz) or .parquet file, or a folder that ``datasets``
    saved; relative to the config file."""
    hub: str | None = None
    """A dataset on the Hugging Face Hub, as ``owner/name``."""
    subset: str | None = None
    """The configuration of a dataset on the Hub that has several."""
    split: str | None = None
    """The split of a dataset on the Hub or in a folder; needed if there are several. For a file,
    the column with ``test`` in the rows to score, short for ``test: {column: COLUMN}``."""
    revision: str | None = None
    """Branch, tag or commit of the dataset on the Hub."""
    text: str | None = None
    """Column of the texts; by default the one called text, statement or sentence."""
    label: str | tuple[str, ...] | None = None
    """Column of the classes; by default the one called label. Several columns, or one whose cells
    are lists of labels, make several concepts, each with its own curve, ``NAME:LABEL``."""
    group: str | None = None
    """Column of the groups that no split may separate."""
    messages: str | None = None
    """Column of chats, each a list of ``{role, content}``; by default the one called messages."""
    prompt: str | None = None
    """Column of the user's message, for chats of a prompt and a response."""
    response: str | None = None
    """Column of the answer to ``prompt``."""
    system: str | None = None
    """Column of the system message before ``prompt``."""
    chat: dict[str, JsonValue] = Field(default_factory=dict)
    """Options for the model's chat template, e.g. ``{enable_thinking: false}``."""
    pairs: PairsConfig | None = None
    """Columns of contrast pairs, ``{positive: COLUMN, negative: COLUMN}``; each row makes two
    examples of one group."""
    tokens: str | None = None
    """Column of sentences as lists of words; each word is an example."""
    tags: str | None = None
    """Column of the labels of ``tokens``, as lists."""
    start: str | None = None
    """Column of the first character of the labelled part of a text, counted from 0."""
    end: str | None = None
    """Column of the end of the labelled part: the character after its last."""
    encoding: str | None = None
    """The encoding of a text file that is not UTF-8, e.g. latin-1."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """The character between the cells of a .csv or .tsv file, if it is neither a comma nor a
    tab."""
    quoting: Literal["minimal", "none"] | None = None
    """What quotation marks mean in a .csv or .tsv file. ``minimal``: they enclose a cell, which can
    then have delimiters and line breaks. ``none``: they are ordinary characters. By default
    whichever fits the file."""
    test: str | HeldOutConfig | None = None
    """The examples to score, by probes fitted on the rest: a second file with the same columns,
    another split of the dataset on the Hub, or ``{column: COLUMN, value: VALUE}``. By default all
    examples are scored, in folds."""
    drop: DropConfig = DropConfig()
    """Examples that are left out, e.g. ``{unlabelled: true}``."""
    perturb: PerturbConfig | None = None
    """A change of the texts, before they are put into the template."""
    template: str | None = None
    """The text that the model reads, e.g. ``"True or False? {text}"``; each column is a field."""
    question: bool | str = False
    """A template that ends where an answer begins, in place of ``template``, e.g.
    ``"{text} Answer:"``; ``true`` is the dataset's own. What the model says there is compared with
    what a probe reads."""
    answers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Words that say each label, e.g. ``{1: [yes, Yes], 0: [no, No]}``; a known dataset has its
    own."""
    classes: dict[str, str] = Field(default_factory=dict)
    """The names of labels in figures and on the page, e.g. ``{1: spam, 0: other}``; by default the
    first answer for each label, or else the label itself."""
    n: PositiveInt | None = None
    """The number of examples to generate, or to draw in whole groups from the dataset; by default
    all."""
    seed: Seed | None = None
    """The seed of what is generated or drawn; by default 0."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of a known dataset, which ``llmprobe show NAME`` lists."""
    alias: str | None = Field(default=None, alias="as")
    """The name in tables, when one run has the same dataset twice."""

    @property
    def title(self) -> str:
        """Return the name in tables and figures."""
        return self.alias or self.name

    @property
    def is_own(self) -> bool:
        """Whether the columns are the user's, in a file or on the Hub, not those of a builder."""
        return self.path is not None or self.hub is not None

    @property
    def names_columns(self) -> bool:
        """Return whether any key names a column of a table."""
        return any(getattr(self, key) is not None for key in _COLUMNS)

    @field_validator("label", mode="before")
    @classmethod
    def _one_alone(cls, label: Any) -> Any:
        several = isinstance(label, list | tuple)
        if several and len({*map(str, label)}) < max(len(label), 1):
            raise ValueError("should be a column, or a list of different ones")
        return label[0] if several and len(label) == 1 else label

    @field_validator("delimiter", mode="before")
    @classmethod
    def _written_tab(cls, delimiter: Any) -> Any:
        return "\t" if delimiter == "\\t" else delimiter

    @field_validator("template")
    @classmethod
    def _has_fields(cls, template: str | None) -> str | None:
        if template is not None:
            check_template(template)
        return template

    @field_validator("question")
    @classmethod
    def _question_has_fields(cls, question: bool | str) -> bool | str:
        if isinstance(question, str):
            check_template(question)
        return question

    @field_validator("answers", mode="before")
    @classmethod
    def _words_of_labels(cls, answers: Any) -> Any:
        if not isinstance(answers, dict):
            return answers
        of_label = {
            str(label): [words] if isinstance(words, str | bool) else words
            for label, words in answers.items()
        }
        for words in (*of_label.values(), answers):
            if isinstance(words, list | tuple | dict) and any(isinstance(w, bool) for w in words):
                raise ValueError(_NOT_WORDS)
        return of_label

    @field_validator("classes", mode="before")
    @classmethod
    def _names_of_labels(cls, classes: Any) -> Any:
        if not isinstance(classes, dict):
            return classes
        if any(isinstance(word, bool) for name in classes.items() for word in name):
            raise ValueError(_NOT_WORDS)
        names = {str(label): str(name).strip() for label, name in classes.items()}
        if "" in names.values() or len({*names.values()}) < len(names):
            raise ValueError("should have a name for each label, and none twice")
        return names

    @field_validator("perturb", mode="before")
    @classmethod
    def _kind_alone(cls, perturb: Any) -> Any:
        return {"kind": perturb} if isinstance(perturb, str) else perturb

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name"):
            if values.get("path"):
                path = Path(str(values["path"]))
                ending = table_suffix(path.name)
                stem = path.name[: -len(ending)] if ending else path.stem
                values = {**values, "name": stem}
            elif isinstance(values.get("hub"), str):
                values = {**values, "name": values["hub"].rstrip("/").rsplit("/", 1)[-1]}
        return values

    @model_validator(mode="after")
    def _one_origin(self) -> DatasetConfig:
        if not self.name:
            raise ValueError("needs a name, a path or hub")
        if self.path is not None and self.hub is not None:
            raise ValueError("has a path and hub; it can come from one of them")
        if self.is_own and self.options:
            raise ValueError("options belong to a known dataset, not to a file")
        for keys, belongs, there in (
            (_COLUMNS, "names a column of a file", self.is_own),
            (("test",), "belongs to a file", self.is_own),
            (("encoding", "delimiter", "quoting"), "belongs to a file", self.path is not None),
            (("subset", "revision"), "belongs to a dataset on the Hub", self.hub is not None),
            (("split",), "belongs to a dataset on the Hub or a folder", self.is_own),
        ):
            present = [key for key in keys if getattr(self, key) is not None]
            if present and not there:
                other = "hub" if belongs.endswith("Hub") else "path"
                raise ValueError(
                    f"{present[0]} {belongs}, and there is no {other}; the options of a known "
                    "dataset go under options"
                )
        for part in (file_name(self.title), *self.title.split("/")):
            check_file_name(part, "as")
        return self

    @model_validator(mode="after")
    def _one_template(self) -> DatasetConfig:
        if self.question and self.template is not None:
            raise ValueError("has template and question, which is a template; give one of them")
        if isinstance(self.question, str) and self.is_own and not self.answers:
            raise ValueError("has a question, which needs answers: {LABEL: [words]}")
        for label, words in self.answers.items():
            if not words or not all(word.strip() for word in words):
                raise ValueError(f"answers: {label!r} needs a word")
        return self

    @model_validator(mode="after")
    def _one_form(self) -> DatasetConfig:
        used = [key for key in _COLUMNS if getattr(self, key) is not None]
        forms = [form for form, keys in _FORMS.items() if {*keys} & {*used}]
        if len(forms) > 1:
            raise ValueError(f"has {forms[0]} and {forms[1]}, which are two forms of texts; give "
                             "one of them")  # fmt: skip
        (form,) = forms or ("text",)
        for key, other in (
            ("response", "prompt"), ("system", "prompt"), ("tokens", "tags"), ("tags", "tokens"),
            ("start", "end"), ("end", "start"),
        ):  # fmt: skip
            if key in used and other not in used:
                raise ValueError(f"has {key}, which needs {other}")
        if "label" in used and form in ("pairs", "tokens"):
            labels = "tags" if form == "tokens" else "the sides"
            raise ValueError(f"has {form} and a label, but its labels are {labels}")
        if "start" in used and form != "text":
            raise ValueError(f"has {form} and start, but start and end are places in a text")
        return self


def _default(section: Section, key: str) -> Any:
    return type(section).model_fields[key].default
