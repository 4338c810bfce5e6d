"""A run, described by one YAML file: the classes below are its schema and its documentation.

Short forms (a name instead of a mapping) become mappings, and the resolved config is itself a valid
config. ``load.py`` reads files and says what is wrong with them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.sites import SITES
from llmprobe.ground.errors import suggestion
from llmprobe.ground.files import digest
from llmprobe.ground.registry import Registry

TABLE_SUFFIXES = (
    ".csv", ".tsv", ".json", ".jsonl", ".parquet",
    ".csv.gz", ".tsv.gz", ".json.gz", ".jsonl.gz",
)  # fmt: skip
"""Endings of the files with a table that are read."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed that NumPy, scikit-learn and torch all take."""


class Section(BaseModel):
    """A mapping of the config; unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True,
        hide_input_in_errors=True,
    )  # fmt: skip


def name_in(registry: Registry[Any]) -> Callable[[str, ValidationInfo], str]:
    """Return a validator of names in a registry.

    A config that includes files may have others, since only a run reads those files: who looks the
    name up refuses it then.
    """

    def known(name: str, info: ValidationInfo) -> str:
        if name not in registry and not (info.context or {}).get("include"):
            raise ValueError(f"no {registry.kind}; {suggestion(name, registry)}")
        return name

    return known


class ModelConfig(Section):
    """A language model that is probed, and how it is loaded and run."""

    id: str = Field(min_length=1)
    """A known name (``llmprobe ls models``), a Hugging Face Hub id, a folder, or a .gguf file."""
    name: str = ""
    """The model's name in tables and figures; by default the last part of ``id``."""
    revision: str = "main"
    """Branch, tag or commit of a model on the Hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The type in which the model computes; ``auto`` is bfloat16 where the hardware computes it
    fast, float32 elsewhere."""
    quantization: Literal["none", "int8", "nf4"] = "none"
    """How bitsandbytes stores the weights of linear layers, which compute in ``dtype`` anyway."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """The published weights, or (``random``) the same architecture, freshly initialised from
    ``seed``."""
    seed: Seed = 0
    """The seed of random weights."""
    device: str = "auto"
    """Where the model runs: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    ``auto`` is the accelerator if there is one. A model that does not fit is spread over all GPUs,
    then the CPU, then the disk; of several launched processes, each has a GPU of its own.
    """
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
    tokenizer: str | None = Field(default=None, min_length=1)
    """The tokenizer of a checkpoint that has none, or another one: a known name, a Hub id, or a
    folder."""
    adapter: str | None = Field(default=None, min_length=1)
    """A LoRA adapter that is merged into the weights: a folder, a Hub id, or ``.`` for one that
    lies beside the weights. It needs ``pip install 'llmprobe[adapters]'``."""
    convert: bool = False
    """Whether weights that are there as .bin files alone are read, without running code, and kept
    as safetensors."""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("id"), str):
            name = _last_part(values["id"]).removesuffix(".gguf")
            if values.get("weights") == "random":
                name += "-random"
            if values.get("quantization") in ("int8", "nf4"):
                name += f"-{values['quantization']}"
            if isinstance(values.get("adapter"), str):
                name += f"-{_last_part(values['adapter']).strip('.') or 'adapter'}"
            values = {**values, "name": values.get("name") or name}
        return values

    @model_validator(mode="after")
    def _usable_name(self) -> ModelConfig:
        _check_file_name(self.name, "name")
        if self.adapter is not None and self.weights == "random":
            raise ValueError("adapter changes trained weights; random ones have none")
        if self.adapter is not None and self.quantization != "none":
            raise ValueError("adapter is merged into weights as they are; leave out quantization")
        return self


class ActivationsConfig(Section):
    """Hidden states that another engine wrote, in place of a model (docs/elsewhere.md)."""

    path: Path
    """An .npz, .npy, .safetensors or .parquet file, a Zarr folder, or a folder of the files that
    vLLM writes of each request; relative to the config file."""
    name: str = ""
    """The model's name in tables and figures; by default the file's."""
    layer_offset: int = 0
    """What is added to the numbers of the file's layers, so that 0 enters the first block and i
    leaves block i."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """The number of each layer, in the order of the file; by default those in the names of arrays,
    else 0, 1, 2, …"""
    key: str | None = None
    """The array that has all layers, or what the names of arrays of one layer each begin with."""
    layer_axis: Literal[0, 1] | None = None
    """Which axis of an array of three is that of the layers, where the number of rows leaves it
    open."""
    join: str | None = None
    """A column of the table that names each row, and the array or column of the file that does; for
    a folder, the names of its files. By default the rows are in the same order."""

    @property
    def id(self) -> str:
        """Return what tells these states from others of the run."""
        return str(self.path)

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name") and values.get("path"):
            values = {**values, "name": Path(str(values["path"])).stem}
        return values

    @model_validator(mode="after")
    def _usable(self) -> ActivationsConfig:
        _check_file_name(self.name, "name")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError("layers: a number stands there twice")
        return self


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
    """Templates of which each text gets one, filled from the fields of the dataset, instead of
    those that the dataset offers; for ``paraphrase_template``."""

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
    """Whether to leave out those without a label: an empty one, -1, or a word that means none, such
    as "N/A" or "unlabeled"."""
    classes_under: int = Field(default=0, ge=0)
    """Classes with fewer examples than this are left out."""


class PairsConfig(Section):
    """Columns of contrast pairs."""

    positive: str
    """Column of the texts with the concept."""
    negative: str
    """Column of the texts without it."""


class HeldOutConfig(Section):
    """Which rows of a table are scored, by probes that are fitted on the others."""

    column: str
    """Column that says it."""
    value: str | int | float | bool = "test"
    """What stands there in rows that are scored."""


_FORMS = {
    "text": ("text",),
    "messages": ("messages",),
    "prompt": ("prompt", "response", "system"),
    "pairs": ("pairs",),
    "tokens": ("tokens", "tags"),
}
"""Keys that say in which form a table has its texts; one excludes the others."""

_COLUMNS = ("label", "group", "start", "end", *(key for keys in _FORMS.values() for key in keys))


_NOT_WORDS = (
    "YAML reads yes, no, true and false as something else than words; put labels and words in "
    "quotation marks"
)


class DatasetConfig(Section):
    """A dataset that is known by name, a file of one's own, or one on the Hub."""

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
    """The split of a dataset on the Hub or in a folder; needed when there are several. Of a file,
    the column where rows to be scored have ``test``, as ``test`` says in general."""
    revision: str | None = None
    """Branch, tag or commit of the dataset on the Hub."""
    text: str | None = None
    """Column of the texts; by default the one called text, statement or sentence."""
    label: str | tuple[str, ...] | None = None
    """Column of the classes; by default the one called label. Several columns, or one whose cells
    are lists of labels, are several concepts, with a curve each, ``NAME:LABEL``."""
    group: str | None = None
    """Column of the groups that no split may separate."""
    messages: str | None = None
    """Column of chats, each a list of ``{role, content}``; by default the one called messages."""
    prompt: str | None = None
    """Column of what a user says, where a chat is a prompt and its response."""
    response: str | None = None
    """Column of what is answered to ``prompt``."""
    system: str | None = None
    """Column of the system's message before ``prompt``."""
    chat: dict[str, JsonValue] = Field(default_factory=dict)
    """Options for the model's chat template, e.g. ``{enable_thinking: false}``."""
    pairs: PairsConfig | None = None
    """Columns of two texts a row, ``{positive: COLUMN, negative: COLUMN}``, which make two examples
    of one group."""
    tokens: str | None = None
    """Column of sentences as lists of words, each of which is an example."""
    tags: str | None = None
    """Column of the labels of ``tokens``, as lists."""
    start: str | None = None
    """Column of where in a text the labelled part begins, in characters from 0."""
    end: str | None = None
    """Column of where it ends: the character after its last."""
    encoding: str | None = None
    """The encoding of a text file that is not UTF-8, e.g. latin-1."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """The character between the cells of a .csv or .tsv file, if it is neither a comma nor a
    tab."""
    quoting: Literal["minimal", "none"] | None = None
    """What quotation marks are in a .csv or .tsv file. ``minimal``: around a cell they are not part
    of it, and it may have delimiters and line breaks. ``none``: they are characters like others.
    By default what fits the file."""
    test: str | HeldOutConfig | None = None
    """What is scored, by probes fitted on the rest: a second file with the same columns, beside
    ``hub`` another split, or ``{column: COLUMN, value: VALUE}``. By default all is, in folds."""
    drop: DropConfig = DropConfig()
    """Examples that are left out, e.g. ``{unlabelled: true}``."""
    perturb: PerturbConfig | None = None
    """A change of the texts, before they are put into the template."""
    template: str | None = None
    """The text that the model reads, e.g. ``"True or False? {text}"``; each column is a field."""
    question: bool | str = False
    """In place of ``template``, one that ends where an answer begins, e.g. ``"{text} Answer:"``;
    ``true`` is the dataset's own. What the model says there is compared with what a probe reads."""
    answers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Words that say each label, e.g. ``{1: [yes, Yes], 0: [no, No]}``; a known dataset has its
    own."""
    classes: dict[str, str] = Field(default_factory=dict)
    """What figures and the page call each label, e.g. ``{1: spam, 0: other}``; by default the first
    of its answers, where there are any, else the label."""
    n: PositiveInt | None = None
    """The number of examples: generated, or drawn in whole groups from those there are; by default
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
        """Whether the columns are the user's, in a file or on the Hub, and not a builder's."""
        return self.path is not None or self.hub is not None

    @property
    def names_columns(self) -> bool:
        """Return whether it says which columns of a table are what."""
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
                    f"{present[0]} {belongs}, and there is no {other}; what a known dataset takes "
                    "stands under options"
                )
        for part in (file_name(self.title), *self.title.split("/")):
            _check_file_name(part, "as")
        return self

    @model_validator(mode="after")
    def _one_template(self) -> DatasetConfig:
        if self.question and self.template is not None:
            raise ValueError("has template and question, which is one too; say one of them")
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
            raise ValueError(f"has {forms[0]} and {forms[1]}, which are two forms of texts; say "
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


def table_suffix(name: str) -> str:
    """Return the ending of a file with a table, in lower case; "" for another name."""
    return max(filter(name.lower().endswith, TABLE_SUFFIXES), key=len, default="")


def _last_part(path: str) -> str:
    """Return the last part of a path or a Hub id."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def file_name(name: str) -> str:
    """Return a dataset's name as part of file names.

    That of a published one has a slash. ``DATASET:LABEL`` becomes ``DATASET-LABEL``, where what is
    neither letter nor digit nor one of ``_.+-`` and space is ``%`` and its number, and a long label
    ends in a digest: labels can be anything, and different ones have different files.
    """
    dataset, colon, label = name.partition(":")
    label = re.sub(r"[^\w.+ -]", lambda mark: f"%{ord(mark[0]):X}", label)
    if len(label.encode()) > 80:
        label = f"{label.encode()[:60].decode(errors='ignore')}-{digest(label)[:16]}"
    return dataset.replace("/", "-") + (f"-{label}" if colon else "")


def check_template(template: str) -> None:
    """Raise ``ValueError`` unless a template has fields, its braces match, and no field is wide.

    Who writes ``{text:>9999999999}`` asks for gigabytes of spaces.
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


def _default(section: Section, key: str) -> Any:
    return type(section).model_fields[key].default


def _check_file_name(name: str, key: str) -> None:
    """Raise ``ValueError`` unless ``name`` can be part of the names of folders."""
    # Two of them and a digest make a name, of which file systems take 255 bytes.
    if (
        name.strip(". ") == ""
        or re.search(r'[/\\:*?"<>|\x00-\x1f]', name)
        or len(name.encode()) > 100
    ):
        raise ValueError(
            f"{name!r:.40} cannot name a folder; give another name with `{key}: another-name`"
        )


_POSITION = re.compile(
    r"last|first|mean|tokens|(last|first|mean|span|turn):.+|token:-?\d{1,9}", re.DOTALL
)


class ExtractConfig(Section):
    """Which hidden states are taken from a model, and how texts become tokens."""

    site: Annotated[str, AfterValidator(name_in(SITES))] = "residual"
    """Where in a block. ``residual``: the residual stream; layer 0 enters block 1, layer i leaves
    block i, before the norm. ``attention``, ``mlp``: what block i adds to it.
    ``post_attention_norm``: the output of that norm in block i. Only ``residual`` has a layer 0.
    Or a site of one's own, see docs/design.md."""
    position: str | tuple[str, ...] = "last"
    """Which token, or a list of several, which are read in one pass and have a curve each.
    ``last``, ``first``, ``mean``: of the tokens of the text (where labels are of words, of the
    word). ``last:FIELD``, ``first:FIELD``, ``mean:FIELD``: of those that stand for a field of the
    template, or for a field's value where it stands in the text; ``span:FIELD`` is ``last:FIELD``.
    ``turn:ROLE``, ``first:ROLE``, ``mean:ROLE``: of the last turn of a role in a chat.
    ``tokens``: every token of the text, for probes over tokens.
    ``token:N``: the token at an index, from the end where it is negative."""
    occurrence: Literal["first", "last"] | None = None
    """Which place a position of a field means where its value stands in a text several times; by
    default that is an error."""
    special: Literal["skip", "include"] = "skip"
    """Whether ``first``, ``last``, ``mean`` and ``token:N`` count tokens that the tokenizer adds to
    a text, such as BOS and EOS; ``mean`` also leaves out special tokens inside of it."""
    layers: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    """The layers that are read, by default every one, or four with ``position: tokens``; the model
    stops after the last of them."""
    batch_tokens: PositiveInt | Literal["auto"] = "auto"
    """The most tokens (with padding) in one forward pass; ``auto`` takes what costs least."""
    chat_template: bool = False
    """Whether each text becomes a user's turn in the tokenizer's chat template."""
    too_long: Literal["error", "cut_left"] = "error"
    """What to do with a text longer than the model's window: stop, or drop its first tokens."""

    @field_validator("position")
    @classmethod
    def _known_positions(cls, position: str | tuple[str, ...]) -> str | tuple[str, ...]:
        positions = (position,) if isinstance(position, str) else position
        for name in positions:
            if not _POSITION.fullmatch(name):
                which = "" if isinstance(position, str) else f"{name!r:.40}: "
                raise ValueError(
                    f"{which}should be last, first, mean, one of them with :FIELD, "
                    "span:FIELD, turn:ROLE, token:N or tokens"
                )
        if len(set(positions)) < max(len(positions), 1):
            raise ValueError("should be one position, or a list of different ones")
        return positions[0] if len(positions) == 1 else position

    @field_validator("layers")
    @classmethod
    def _different_layers(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers and len(set(layers)) < len(layers):
            raise ValueError("a number stands there twice")
        return layers

    @property
    def positions(self) -> tuple[str, ...]:
        """Return the positions that are read, in order."""
        return (self.position,) if isinstance(self.position, str) else self.position


Fraction = Annotated[float, Field(gt=0, le=1)]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # It would count as 0 or 1.
        raise ValueError("should be a valid number")
    return value


def _in_range(penalty: float) -> float:
    # Far beyond it, fits in float32 underflow or overflow.
    if not 1e-12 <= penalty <= 1e12:
        raise ValueError("should be from 1e-12 to 1e12")
    return penalty


Penalty = Annotated[float, BeforeValidator(_no_bool), AfterValidator(_in_range)]


_POOLING = re.compile(r"mean|max|attention|last-\d{1,6}|softmax(-\d{1,6}(\.\d{1,6})?)?")


class ProbeConfig(Section):
    """How probes are fitted and layers are scored."""

    kind: Annotated[str, AfterValidator(name_in(PROBE_KINDS))] = "logistic"
    """The kind of probe. ``logistic``: logistic regression on standardised states, L2 penalty,
    unpenalised intercept. ``mass_mean``: the difference of the class means. ``ridge``: linear
    regression with an L2 penalty, for labels that are numbers. Or one of one's own
    (``llmprobe.probing.kinds``)."""
    folds: int = Field(default=5, ge=2)
    """The number of outer cross-validation folds; stratified, and whole groups when the dataset has
    groups."""
    repeats: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """How often all examples are dealt out to folds, whose scores are averaged: one deal alone
    moves an accuracy by a percent or two. ``auto``: 3 where ``permutations`` (20 or more) cost far
    more than that, else 1."""
    l2: Penalty | Literal["auto"] = "auto"
    """The penalty (scikit-learn's 1/C), 1e-12 to 1e12; ``auto`` chooses inside each training fold.
    """
    controls: tuple[
        Literal[
            "majority",
            "bag_of_words",
            "token_embeddings",
            "text_encoder",
            "length",
            "perplexity",
            "random_labels",
            "random_weights",
        ],
        ...,
    ] = ("majority", "bag_of_words", "token_embeddings", "random_labels")
    """What scores are compared with. ``majority``: the most frequent class. ``bag_of_words``: what
    the surface of the text gives away. ``token_embeddings``: what the mean of the model's
    embeddings of the tokens does. ``text_encoder``: what the sentence embeddings of another, small
    model do. ``length``: what the numbers of characters and of words do. ``perplexity``: what
    the model's own perplexity of the text does, which loads it with its head. ``random_labels``:
    what a probe memorises about groups. ``random_weights``: the same architecture untrained, which
    doubles the extraction."""
    text_encoder: str = Field(default="minilm", min_length=1)
    """The model of the control ``text_encoder``: a known name, or a Hub id or folder, best of
    sentence-transformers."""
    pooling: tuple[str, ...] = Field(
        default=("mean", "max", "last-5", "softmax", "attention"), min_length=1
    )
    """With ``position: tokens``, what a probe over tokens makes of a text; a curve each, at the
    position ``tokens:mean`` and so on. ``mean``, ``last-K``: a probe of the mean state of all, or
    of the last K tokens. ``max``: the largest score of a token. ``softmax-T``: the mean of the
    scores, weighted by the soft-max of score / T (1 by default). ``attention``: the mean, weighted
    by the soft-max of another linear function, one query that is learned."""
    permutations: int = Field(default=100, ge=0)
    """The number of refits on shuffled labels; the smallest p-value is 1 / (permutations + 1)."""
    description_length: bool = True
    """Whether to compute the length of the online code (Voita & Titov 2020)."""
    learning_curve: tuple[Fraction, ...] = ()
    """Fractions of the training groups to train on besides all of them, e.g. [0.1, 0.3]."""
    calibrate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of the units, such as 0.3, that the saved probe of two classes is not fitted on, so
    that its thresholds keep their false positive rates with a guarantee (docs/probing.md). The
    scores of the tables, of other probes, are of all units as ever."""
    device: str = "auto"
    """Where probes are fitted; ``auto`` is CUDA where there is a GPU, else the CPU."""
    seed: Seed = 0
    """The seed of folds, shuffled and random labels, and the bootstrap."""

    @property
    def n_repeats(self) -> int:
        """Return how often examples are dealt out to folds."""
        if self.repeats == "auto":
            return 3 if self.permutations >= 20 else 1
        return self.repeats

    def alone(self, **others: Any) -> ProbeConfig:
        """Return a config of the same probes and nothing beside them: no controls, p-values, …"""
        nothing: dict[str, Any] = {
            "controls": (), "permutations": 0, "description_length": False, "learning_curve": (),
            "calibrate": None,
        }  # fmt: skip
        return self.model_copy(update=nothing | others)

    @field_validator("pooling")
    @classmethod
    def _known_poolings(cls, pooling: tuple[str, ...]) -> tuple[str, ...]:
        for name in pooling:
            if not _POOLING.fullmatch(name) or not float(name.partition("-")[2] or 1):
                raise ValueError(
                    f"{name!r:.40}: should be mean, max, attention, last-K (such as last-5), "
                    "softmax, or softmax-T (such as softmax-0.5)"
                )
        return tuple(dict.fromkeys(pooling))

    @field_validator("learning_curve")
    @classmethod
    def _each_once(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(fractions)))


def curve_positions(read: Sequence[str], config: ProbeConfig) -> tuple[str, ...]:
    """Return the positions of the curves of positions that are read, with ``tokens:POOLING``."""
    pooled = tuple(f"tokens:{name}" for name in config.pooling)
    return tuple(
        position for name in read for position in (pooled if name == "tokens" else (name,))
    )


class TransferConfig(Section):
    """Which sets of examples probes are fitted on, and which others they are scored on."""

    by: str | None = None
    """A field of a dataset, each value of which is a set; datasets without it are sets whole. By
    default every dataset is one."""
    train: tuple[str, ...] = ()
    """The sets that probes are fitted on, by the names of the datasets or values; by default all.
    """
    test: tuple[str, ...] = ()
    """The sets that are scored; by default all."""
    leave_one_out: bool = False
    """Whether probes are fitted on all values of the field but one too, and scored on that one:
    what is read in a wording, say, that was never fitted on."""
    mask: tuple[str, ...] = ()
    """Fields whose text is replaced by "something" in every text, which probes of the whole dataset
    score then: what they still read is not read from there."""
    across_layers: bool = False
    """Whether probes of every layer are scored on the states of every other one too."""
    entity: str | None = None
    """The field that names what an example is about, where sets of different datasets share that
    and it is not seen by itself (docs/evidence.md)."""

    @model_validator(mode="after")
    def _one_of_a_field(self) -> TransferConfig:
        if self.leave_one_out and self.by is None:
            raise ValueError("leave_one_out leaves out one value of a field: give by: FIELD too")
        return self

    @field_validator("train", "test", "mask", mode="before")
    @classmethod
    def _as_list(cls, names: Any) -> Any:
        names = [names] if isinstance(names, str | int | float) else names
        return [str(name) for name in names] if isinstance(names, list | tuple) else names


class InterveneConfig(Section):
    """Whether a model uses what is read of it: states are changed, and what it then says."""

    layers: Literal["auto"] | tuple[NonNegativeInt, ...] = "auto"
    """The layers whose states are changed; ``auto`` is every one of a model of up to 32 blocks, and
    of a larger one some around the best."""
    null: int = Field(default=50, ge=19, le=1000)
    """How many directions that say nothing each effect is compared with: half are fitted to
    shuffled labels, half are random."""
    n: int = Field(default=200, ge=20)
    """Most texts whose states are changed; of more, so many, in turn one of each group."""


class LinearConfig(Section):
    """Whether a curved probe would read more, and how many directions a linear one takes."""

    features: PositiveInt = 2048
    """The number of random features of the states that a curved probe has beside them."""
    layers: tuple[NonNegativeInt, ...] | Literal["auto"] = "auto"
    """The layers; ``auto`` is the best one and four from the first to the last."""
    null: NonNegativeInt = 19
    """The number of shuffled labellings whose gaps the gap is compared with."""
    rank: bool = True
    """Whether to count the principal directions that a probe takes, at the best layer."""


class ReportConfig(Section):
    """What is drawn from a run's tables."""

    html: bool = True
    """Whether to write report.html beside the figures."""
    traces: int = Field(default=3, ge=0, le=50)
    """Examples of each model and dataset that the page follows token by token, by probes that did
    not see them; each is one more pass of one text."""
    log_to: tuple[Literal["trackio", "wandb", "mlflow"], ...] = ()
    """Trackers that `llmprobe run` writes summary, figures and page to when it is done, or the name
    of one; each needs ``pip install 'llmprobe[NAME]'``."""

    @field_validator("log_to", mode="before")
    @classmethod
    def _one_or_more(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names


def expand_short_forms(raw: Any) -> Any:
    """Return a raw config with every short form as the mapping that it stands for."""

    def mapping(item: Any, key: str) -> Any:
        if not isinstance(item, str):
            return item
        return short_dataset(item) if key == "name" else {key: item}

    if not isinstance(raw, dict):
        return raw
    # ``probe:`` with nothing below it is a section like any other.
    raw = {key: value for key, value in raw.items() if value is not None}
    for section, key in (("models", "id"), ("activations", "path"), ("datasets", "name")):
        items = raw.get(section)
        if isinstance(items, str | dict):
            items = [items]
        if isinstance(items, list):
            raw[section] = [mapping(item, key) for item in items]
    for section in ("transfer", "intervene", "linear"):
        if isinstance(raw.get(section), bool):
            asked = raw.pop(section)
            raw |= {section: {}} if asked else {}
    for section in ("intervene", "linear"):
        # YAML reads the key ``null`` as nothing.
        if isinstance(asked := raw.get(section), dict):
            raw[section] = {"null" if key is None else key: asked[key] for key in asked}
    if isinstance(raw.get("include"), str):
        raw["include"] = [raw["include"]]
    return raw


def short_dataset(item: str) -> dict[str, str]:
    """Return the mapping for a word: a file or ./folder, hub:owner/name, or a known name."""
    if item.startswith("hub:"):
        return {"hub": item.removeprefix("hub:")}
    is_path = table_suffix(item) or item.startswith((".", "/", "~"))
    return {"path" if is_path else "name": item}


class RunConfig(Section):
    """A run: every model on every dataset, or another engine's states of it."""

    name: str = "run"
    """A word of letters, digits, ``_``, ``.`` and ``-``; results go to ``runs/<name>``."""
    models: list[ModelConfig] = Field(default=[], min_length=1)
    """The models, each a mapping, or its ``id`` alone."""
    activations: list[ActivationsConfig] = Field(default=[], min_length=1)
    """In place of models: hidden states from elsewhere, of which the datasets are the tables; each
    a mapping, or its ``path`` alone."""
    datasets: list[DatasetConfig] = Field(min_length=1)
    """The datasets, each a mapping, or a known name, a file or ``hub:owner/name`` alone."""
    include: tuple[Path, ...] = ()
    """Folders or files with datasets of one's own: .yaml with a dataset's mapping, .py with a
    decorated function."""
    extract: ExtractConfig = ExtractConfig()
    """Which hidden states are taken."""
    probe: ProbeConfig = ProbeConfig()
    """How probes are fitted and layers are scored."""
    said: bool = True
    """Whether what the model itself says is compared, of datasets with a ``question``."""
    linear: LinearConfig | None = None
    """Whether a curved probe would read more, or ``true``; by default it is not asked."""
    transfer: TransferConfig | None = None
    """Where what is read is scored elsewhere, or ``true`` for all datasets; by default it is not.
    """
    intervene: InterveneConfig | None = None
    """What the model would say with other states, or ``true``; by default that is not asked."""
    report: ReportConfig = ReportConfig()
    """What is drawn."""

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]{,99}", name):
            raise ValueError("should be a word of letters, digits, _, . and -, as in my-run_1.2")
        return name

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, raw: Any) -> Any:
        return expand_short_forms(raw)

    @property
    def sources(self) -> Sequence[ModelConfig | ActivationsConfig]:
        """Return where hidden states come from: the models, or the files in place of them."""
        return self.models or self.activations

    @property
    def positions(self) -> tuple[str, ...]:
        """Return the positions of the curves, in order: ``tokens`` has one for each pooling."""
        return curve_positions(self.extract.positions, self.probe)

    @model_validator(mode="after")
    def _models_or_states(self) -> RunConfig:
        if not self.sources:
            raise ValueError("models: missing")
        if self.models and self.activations:
            raise ValueError("has models and activations; hidden states come from one of them")
        if self.activations and len(self.extract.positions) > 1:
            raise ValueError("extract.position: activations from elsewhere are of one position")
        return self

    @model_validator(mode="after")
    def _distinct_names(self) -> RunConfig:
        for kind, key, names in (
            ("models", "name", [source.name for source in self.sources]),
            ("datasets", "as", [d.title for d in self.datasets]),
            ("datasets' files", "as", [file_name(d.title) for d in self.datasets]),
        ):
            for name, times in Counter(names).items():
                if times > 1:
                    raise ValueError(f"{times} {kind} are called {name!r}; tell them apart "
                                     f"with `{key}: another-name`")  # fmt: skip
        return self

    def to_yaml(self) -> str:
        """Return the resolved config, itself a valid config."""
        return yaml.safe_dump(
            self.model_dump(
                mode="json",
                by_alias=True,
                exclude_none=True,
                exclude={"activations" if self.models else "models"},
            ),
            sort_keys=False,
            allow_unicode=True,
        )
