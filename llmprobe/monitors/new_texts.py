"""New texts for a saved probe: its model reads them as it read the texts of the fit."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from pydantic import BaseModel

from llmprobe.config.load import validated
from llmprobe.config.schema import ExtractConfig, ModelConfig, check_template, template_fields
from llmprobe.config.sites import SITES
from llmprobe.datasets.spans import Spans, Turn, ranges
from llmprobe.datasets.templates import fill
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.tokens import (
    TokenisedTexts,
    added_tokens,
    model_window,
    require_usable_tokens,
    tokenise,
)
from llmprobe.ground.errors import UserError, foreign_errors
from llmprobe.ground.files import existing, sha256
from llmprobe.models.in_memory import ModelInMemory
from llmprobe.models.packaged import PACKAGED
from llmprobe.probing.pooling import Pooling
from llmprobe.results.saved_probe import HOW_READ, SavedProbe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadingOptions:
    """How a user wants new texts to be read, in place of what a probe remembers."""

    model: str | ModelInMemory | None = None
    """A name, id, folder or model in memory in place of the model that the probe remembers."""
    template: str | None = None
    """Used in place of the template of the probe's own texts."""
    too_long: str | None = None
    """``error`` or ``cut_left``, in place of the setting for the probe's own texts."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run; a probe never says so by itself."""


def extractor_like(facts: Mapping[str, Any], options: ReadingOptions, where: str) -> Extractor:
    """Return an extractor that reads texts in the way that ``facts`` record.

    Parameters
    ----------
    facts
        The facts of a saved probe, or of an extraction.
    where
        What errors call their source.
    """

    def remembered(section: type[BaseModel]) -> dict[str, object]:
        return {name: facts[name] for name in section.model_fields if name in facts}

    extract = remembered(ExtractConfig)
    extract.pop("layers", None)  # In an extraction's facts, the number of blocks.
    if Pooling.of(str(facts.get("position", "last"))):
        extract["position"] = "tokens"
    if options.too_long is not None:
        extract["too_long"] = options.too_long
    config = validated(ExtractConfig, extract, where)
    if isinstance(options.model, ModelInMemory):
        return Extractor(options.model, config)
    own_model = options.model is None
    model = remembered(ModelConfig) | {
        "id": options.model or facts["model_id"],
        "name": facts["model"] if own_model else "",
        "revision": (own_model and facts.get("revision")) or "main",
        "trust_remote_code": options.trust_remote_code,
    }
    if not own_model:
        model |= {"tokenizer": None, "adapter": None}
    return Extractor(validated(ModelConfig, model, where), config)


class NewTextReader:
    """Reads texts for a saved probe with the model, site, precision, … of the probe's own texts.

    ``require_own_model`` loads the model, and nothing before it does.

    Parameters
    ----------
    where
        What the probe is called in errors.

    Raises
    ------
    UserError
        The probe is not of a language model; its model runs code of its own, or was in memory, and
        the options do not say what to do.
    """

    extractor: Extractor
    """What runs the model; readers of one model and site can share it."""

    def __init__(self, probe: SavedProbe, where: str, options: ReadingOptions | None = None):
        self.probe, self.where, self.options = probe, where, options or ReadingOptions()
        facts = probe.facts
        if not all(facts.get(fact) for fact in ("model_id", "model", "dataset", "site")):
            raise UserError(
                f"{where}: no probe of a language model, so there is nothing to read texts with"
            )
        named = not isinstance(self.options.model, ModelInMemory)
        if named and facts.get("trust_remote_code") and not self.options.trust_remote_code:
            raise UserError(
                f"{where}: its model {facts['model_id']!r} runs code that comes with it; if you "
                "trust that, say --trust-remote-code"
            )
        if facts.get("in_memory") and self.options.model is None:
            raise UserError(
                f"{where}: its model {facts['model']!r} was one in memory; give that to "
                "llmprobe.trace (model=, tokenizer=), or name the model that it was saved as"
            )
        unknown = [name for name in (*HOW_READ, "template") if name not in facts]
        if unknown:
            log.warning("%s: an older version made this probe, which does not say %s; the "
                        "defaults are taken", where, ", ".join(unknown))  # fmt: skip
        self.extractor = extractor_like(facts, self.options, where)
        self._is_own = False

    def require_own_model(self) -> None:
        """Load the model, and refuse one that is not the probe's.

        If the user named the model, other weights of the same shape are only a warning.

        Raises
        ------
        UserError
            The model cannot be found or loaded; it is not the one that the probe was fitted on.
        """
        if self._is_own:
            return
        facts = self.probe.facts
        revision = facts.get("revision")
        name = self.extractor.model_config.id
        if self.options.model is None:
            self._require_named()
        identity = self.extractor.source.identity
        if revision and identity not in ("", revision):
            message = (
                f"{self.where}: the files of {name!r} are not those that the probe was fitted on"
            )
            if self.options.model is None:
                raise UserError(f"{message}; fit it again with `llmprobe run`")
            log.warning("%s; its scores hold only if the weights are the same", message)
        model = self.extractor.model
        before, after = added_tokens(model.tokenizer)
        moved = {"first": before, "last": after}.get(self.position)
        if moved and not self.extractor.config.chat_template and not facts.get("real_tokens"):
            raise UserError(
                f"{self.where}: an older version fitted it at a token that the tokenizer adds, not "
                "at one of the text; fit it again with `llmprobe run`"
            )
        last = self.probe.layers[-1]
        width, blocks = self.probe.hidden_size, facts.get("blocks", last)
        known = SITES[self.extractor.config.site].layers(model.n_blocks)
        if (width, blocks) != (model.hidden_size, model.n_blocks) or last not in known:
            raise UserError(
                f"{self.where}: {name!r} has {model.n_blocks} blocks of width "
                f"{model.hidden_size}, and the probe's model has {blocks} of width {width}; it was "
                "fitted on another model"
            )
        self._is_own = True

    def _require_named(self) -> None:
        """Refuse a path on this disk that only the probe's file names, without a matching digest.

        Refuse a tokenizer or an adapter too if it is not the one that the probe was fitted with.
        """
        facts, config = self.probe.facts, self.extractor.model_config
        for key, name, revision in (
            ("model", config.id, "revision"),
            ("tokenizer", config.tokenizer, "tokenizer_revision"),
            ("adapter", config.adapter, "adapter_revision"),
        ):
            known = facts.get(revision)
            path = None if name is None or name in (*PACKAGED, ".") else existing(name)
            if path and (not known or (path.is_file() and sha256(path) != known)):
                raise UserError(
                    f"{self.where}: names {name!r} on this disk as its {key}, and not the digest "
                    "of what is there; if that is its model, say so (--model of `llmprobe score`, "
                    "model= of llmprobe.trace)"
                )
        for key, identity in self.extractor.source.beside.items():
            if identity != facts.get(f"{key}_revision"):
                raise UserError(
                    f"{self.where}: the {key} {getattr(config, key)!r} is not the one that the "
                    "probe was fitted with; fit it again with `llmprobe run`"
                )

    def fill_template(self, values: pd.DataFrame, where: str) -> tuple[list[str], Spans]:
        """Return texts as the model reads them, and where the fields of their template stand.

        Parameters
        ----------
        values
            Texts in the column ``text``, and the other columns that the template needs. n rows
        where
            What the texts are called in errors.

        Returns
        -------
        list[str], Spans
            [n], and [n] for each field

        Raises
        ------
        UserError
            The template is invalid, or has a field that is not in ``values``.
        """
        facts, template = self.probe.facts, self.options.template
        template = (facts.get("template") if template is None else template) or "{text}"
        try:
            check_template(template)
        except ValueError as error:
            raise UserError(f"template {template!r:.200}: {error}") from None
        if facts.get("perturbation"):
            log.warning("%s: the texts of %s were changed (%s) before the probe saw them; these "
                        "are read as they are", where, facts["dataset"],
                        facts["perturbation"])  # fmt: skip
        missing = [name for name in template_fields(template) if name not in values.columns]
        if missing:
            known = ", ".join(map(str, values.columns))
            raise UserError(
                f"{where}: the template {template!r:.200} has the field {missing[0]!r}, which is "
                f"not there (there are {known}); for texts without one say --template '{{text}}'"
            )
        return fill(values, template, where)

    @property
    def position(self) -> str:
        """The position that the probe was fitted at, such as ``last`` or ``tokens:max``."""
        return str(self.probe.facts.get("position", "last"))

    @property
    def pools_scores(self) -> bool:
        """Whether the probe scores each token of a text, and pools the scores."""
        pooling = Pooling.of(self.position)
        return pooling is not None and not pooling.is_of_states

    @property
    def of_chats(self) -> bool:
        """Whether the probe's own texts were chats of several turns."""
        return "chat" in self.probe.facts

    def texts(self, values: pd.DataFrame, where: str) -> NewTexts:
        """Return texts as the model reads them, and where in them the probe's position is.

        Parameters
        ----------
        values
            As for ``fill_template``; of chats, what ``unlabelled_chats`` returns.

        Raises
        ------
        UserError
            As for ``fill_template``; a text does not have the position, or has it several times.
        """
        if self.probe.facts.get("of_words"):
            raise UserError(
                f"{self.where}: its labels are of words, and which word of a new text is meant is "
                "not known; `llmprobe trace` shows its scores at every token"
            )
        if self.of_chats:
            texts, turns = values["text"].tolist(), values["turns"].tolist()
            columns = [column for column in values.columns if column.startswith("span ")]
            spans = {name.removeprefix("span "): values[name].tolist() for name in columns}
        else:
            (texts, spans), turns = self.fill_template(values, where), None
        (read,) = self.extractor.config.positions
        parts = ranges(
            read, texts, spans, values.drop(columns="text"), turns=turns,
            occurrence=self.extractor.config.occurrence, where=where,
        )  # fmt: skip
        return NewTexts(texts, {} if parts is None else {self.position: parts}, turns)


@dataclass(frozen=True)
class NewTexts:
    """Texts for a probe, before they become tokens."""

    texts: list[str]
    ranges: dict[str, list[tuple[int, int]]]
    """The part of each text that the probe's position refers to; empty for whole texts."""
    turns: list[list[Turn]] | None
    """The turns of each chat; None for texts that are no chats."""

    def part(self, rows: range) -> NewTexts:
        """Return the texts of a range of rows."""
        some = slice(rows.start, rows.stop)
        ranges = {name: places[some] for name, places in self.ranges.items()}
        return NewTexts(self.texts[some], ranges, self.turns and self.turns[some])


def reading_of_chats(probe: SavedProbe) -> dict[str, Any]:
    """Return the options of the chat template that a probe's own chats were put into.

    Raises
    ------
    UserError
        The options in the probe's file are malformed.
    """
    with foreign_errors("the probe's options of the chat template cannot be used"):
        return dict(json.loads(probe.facts.get("chat", "{}")))


def tokenise_new(
    extractor: Extractor,
    texts: Sequence[str],
    where: str,
    *,
    position: str,
    ranges: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    turns: Sequence[Sequence[Turn]] | None = None,
    chat: Mapping[str, Any] | None = None,
    place: Callable[[int], str] | None = None,
) -> TokenisedTexts:
    """Tokenise new texts for the extractor's model, by the extractor's config.

    Parameters
    ----------
    where
        What the texts are called in errors.
    place
        What an error calls the text of a row; by default ``where``.

    Raises
    ------
    UserError
        A text is too long for the model, or has no tokens that it knows.
    """
    model, config = extractor.model, extractor.config
    if turns is None and config.chat_template:
        turns = [[Turn("user", 0, len(text))] for text in texts]
    window, pooling = model_window(model.module), Pooling.of(position)
    tokenised = tokenise(
        model.tokenizer, texts, window=window if config.too_long == "cut_left" else None,
        positions=[] if pooling else [position], every_token=pooling is not None, ranges=ranges,
        special=config.special, too_long=config.too_long, turns=turns, chat=chat, where=where,
    )  # fmt: skip
    for row, tokens in enumerate(tokenised.ids):
        if window is not None and len(tokens) > window:
            raise UserError(
                f"{place(row) if place else where}: {len(tokens):,} tokens, and {model.name} reads "
                f"{window:,} at most; shorten the text, or say --too-long cut_left to leave out "
                "its beginning"
            )
    require_usable_tokens(tokenised, where, model)
    if pooling and pooling.is_of_states:
        places = [[pooling.merged([i for (i,) in read])] for read in tokenised.places]
        tokenised = replace(tokenised, places=places)
    return tokenised
