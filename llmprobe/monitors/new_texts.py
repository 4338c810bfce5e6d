"""A saved probe and texts that it never saw: its model reads them as it read the probe's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pandas as pd

from llmprobe.config.load import validated
from llmprobe.config.schema import ExtractConfig, ModelConfig, template_fields
from llmprobe.datasets.spans import Spans, span_ends
from llmprobe.datasets.templates import fill
from llmprobe.extraction.extract import Extractor, require_usable_tokens
from llmprobe.extraction.tokens import TokenisedTexts, model_window, tokenise
from llmprobe.ground.errors import UserError
from llmprobe.results.saved_probe import HOW_READ, SavedProbe

log = logging.getLogger(__name__)


def reader_of(
    probe: SavedProbe,
    where: str,
    *,
    model: str | None = None,
    too_long: str | None = None,
    trust_remote_code: bool = False,
) -> Extractor:
    """What reads texts with the model, site, precision, … of the probe's own; nothing is loaded.

    Parameters
    ----------
    where
        What the probe is called in errors.
    model
        A name, id or folder in place of the one that the probe remembers.
    too_long
        ``error`` or ``cut_left``; by default what it was for the probe's own texts.
    trust_remote_code
        Whether code that comes with the model may run; a probe never says so by itself.

    Raises
    ------
    UserError
        The probe is not of a language model, or its model runs code of its own.
    """
    facts = probe.facts
    if not facts.get("model_id") or not facts.get("site"):
        raise UserError(f"{where}: no probe of a language model, so there is nothing to read texts "
                        "with")  # fmt: skip
    if facts.get("trust_remote_code") and not trust_remote_code:
        raise UserError(f"{where}: its model {facts['model_id']!r} runs code that comes with it; "
                        "if you trust that, say --trust-remote-code")  # fmt: skip
    unknown = [name for name in (*HOW_READ, "template") if name not in facts]
    if unknown:
        log.warning("%s: an older version made this probe, which does not say %s; the defaults are "
                    "taken", where, ", ".join(unknown))  # fmt: skip
    raw = {name: facts[name] for name in HOW_READ if name in facts}
    extract = {"site": facts["site"], "position": facts["position"]}
    extract |= {name: raw.pop(name) for name in ("chat_template", "too_long") if name in raw}
    if too_long is not None:
        extract["too_long"] = too_long
    raw |= {"id": raw.pop("model_id"), "name": facts["model"]}
    if model is not None:
        raw |= {"id": model, "name": "", "revision": ""}
    raw |= {"revision": raw.get("revision") or "main", "trust_remote_code": trust_remote_code}
    return Extractor(validated(ModelConfig, raw, where), validated(ExtractConfig, extract, where))


def require_its_model(
    probe: SavedProbe, extractor: Extractor, where: str, *, chosen: bool = False
) -> None:
    """Load the model, and refuse one that is not the probe's.

    Parameters
    ----------
    chosen
        Whether the user named this model: then other weights of its shape are a warning only.

    Raises
    ------
    UserError
        The model cannot be found or loaded; it is not the one that the probe was fitted on.
    """
    made = probe.facts.get("revision")
    name = extractor.model_config.id
    if made and extractor.source.identity != made:
        said = f"{where}: the files of {name!r} are not those that the probe was fitted on"
        if not chosen:
            raise UserError(f"{said}; fit it again with `llmprobe run`")
        log.warning("%s; its scores hold only if the weights are the same", said)
    model = extractor.model
    last = probe.layers[-1]
    width = probe.coef[last].shape[1]
    if (last, width) != (len(model.blocks), model.hidden_size):
        raise UserError(
            f"{where}: {name!r} has {len(model.blocks)} blocks of width {model.hidden_size}, and "
            f"the probe's model has {last} of width {width}; it was fitted on another model"
        )


def as_read(
    probe: SavedProbe, values: pd.DataFrame, template: str | None, where: str
) -> tuple[list[str], Spans]:
    """Texts as the model reads them, and where the fields of their template stand. -> [n], each [n]

    Parameters
    ----------
    values
        Texts in the column ``text``, beside what else the template needs.
    template
        In place of the one that the probe's own texts stood in.

    Raises
    ------
    UserError
        The template is none, or has a field that is not in ``values``.
    """
    facts = probe.facts
    template = (facts.get("template") if template is None else template) or "{text}"
    try:
        names = template_fields(template)
    except ValueError as error:
        raise UserError(f"template {template!r:.200}: {error}") from None
    if not names:
        raise UserError(f"template {template!r:.200} has no field; it needs at least {{text}}")
    if facts.get("perturbation"):
        log.warning("%s: the texts of %s were changed (%s) before the probe saw them; these are "
                    "read as they are", where, facts["dataset"], facts["perturbation"])  # fmt: skip
    lacking = [name for name in names if name not in values.columns]
    if lacking:
        known = ", ".join(map(str, values.columns))
        raise UserError(
            f"{where}: the template {template!r:.200} has the field {lacking[0]!r}, which is not "
            f"there (there are {known}); for texts that are whole say --template '{{text}}'"
        )
    return fill(values, template, where)


def ends_of(
    probe: SavedProbe, values: pd.DataFrame, texts: Sequence[str], spans: Spans, where: str
) -> list[int] | None:
    """For a probe of a span, where that ends in each text; else None. -> [n]

    Raises
    ------
    UserError
        A text does not have it.
    """
    kind, _, field = str(probe.facts["position"]).partition(":")
    if kind != "span":
        return None
    fields = values.drop(columns="text")
    return span_ends(texts, spans, fields, field, f"{where}: position 'span:{field}'")


def tokens_of(
    extractor: Extractor,
    texts: Sequence[str],
    where: str,
    *,
    position: str,
    ends: Sequence[int] | None = None,
    place: Callable[[int], str] | None = None,
) -> TokenisedTexts:
    """The tokens of new texts; ``place(row)``, or ``where``, is what an error calls one of them.

    Raises
    ------
    UserError
        A text is too long for the model, or has no tokens that it knows.
    """
    model, config = extractor.model, extractor.config
    window = model_window(model.module)
    cut = config.too_long == "cut_left"
    tokenised = tokenise(
        model.tokenizer, texts, window=window if cut else None, position=position, span_ends=ends,
        chat_template=config.chat_template, too_long=config.too_long, where=where,
    )  # fmt: skip
    for row, tokens in enumerate(tokenised.ids):
        if window is not None and len(tokens) > window:
            text = place(row) if place else where
            raise UserError(
                f"{text}: {len(tokens):,} tokens, and {model.name} reads {window:,} at most; "
                "shorten the text, or say --too-long cut_left to leave out its beginning"
            )
    require_usable_tokens(tokenised, where, model, position)
    return tokenised
