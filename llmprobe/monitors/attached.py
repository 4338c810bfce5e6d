"""A saved probe attached to a running model: it scores each forward pass as it happens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import logit  # type: ignore[import-untyped]
from torch import Tensor, nn

from llmprobe.config.sites import SITES
from llmprobe.extraction.capture import listen
from llmprobe.ground.errors import UserError
from llmprobe.models.in_memory import base_of
from llmprobe.models.layers import as_it_was, block_input
from llmprobe.models.loading import LoadedModel, described
from llmprobe.monitors.verify import Own, times_off, tolerated
from llmprobe.results.operating import Threshold
from llmprobe.results.saved_probe import SavedProbe

log = logging.getLogger(__name__)

_GOLDEN = 2
"""How many golden examples the model must reproduce: other weights fail at the first."""


class AttachedProbe:
    """Hooks that score what a model reads, until ``remove`` or the end of a ``with`` block.

    The model's own outputs do not change. Several threads can run the model at a time; each sees
    the scores of its own last forward pass.

    Parameters
    ----------
    module
        A model of transformers, with or without a head.
    layer
        By default the probe's best one.
    every_token
        Whether every token is scored, instead of only the last of each text.
    on_scores
        Called with the scores of every forward pass, such as ``scores.append`` while the model
        generates.
    fpr, threshold
        The false positive rate, or else the score, above which a text is ``flagged``; as
        ``SavedProbe.threshold`` takes them.
    check
        Whether the model must reproduce the logits of the probe's golden examples.

    Raises
    ------
    UserError
        The model is not the probe's; the probe is not of a language model; it was fitted at another
        position than the last token, and ``every_token`` is false; there is no such layer or
        threshold; ``fpr``, a rate over texts, is given with ``every_token``.
    """

    def __init__(
        self,
        probe: SavedProbe,
        module: nn.Module,
        *,
        layer: int | None = None,
        every_token: bool = False,
        on_scores: Callable[[Tensor], None] | None = None,
        fpr: float | None = None,
        threshold: float | None = None,
        check: bool = True,
    ) -> None:
        self.probe, self.layer = probe, probe.layer_or_best(layer)
        """The probe, and the layer whose states it scores: the deepest if it reads several."""
        self._reads = probe.layers_of(self.layer)
        self.every_token, self._on_scores = every_token, on_scores
        self.threshold: Threshold | None = None
        """The score above which a text is flagged, with its guarantee; None if not asked for."""
        if fpr is not None and every_token:
            raise UserError("attach: a false positive rate is of texts, not of every token; give a "
                            "threshold")  # fmt: skip
        if fpr is not None or threshold is not None:
            self.threshold = probe.threshold(fpr, value=threshold, layer=layer)
        position = str(probe.facts.get("position", "last"))
        if not every_token and (position != "last" or probe.facts.get("of_words")):
            where = "a labelled word" if probe.facts.get("of_words") else repr(position)
            raise UserError(
                f"attach: the probe was fitted at {where}, and a forward pass is scored at its "
                "last token; every_token=True scores every token, and llmprobe.trace reads a text "
                "as the probe's own were read"
            )
        with as_it_was(module):
            model = self._require_own(module, check)
        self._directions: dict[torch.device, tuple[Tensor, Tensor]] = {}
        """By device: the directions of the layers that are read [layers, d, 1 or C], and the
        intercepts [1 or C]."""
        # An encoder's tokenizer may add tokens after the last one of the text.
        golden = probe.golden[0] if probe.golden else None
        self._after = 0 if golden is None else len(golden.token_ids) - 1 - golden.positions[-1]
        self._running = threading.local()
        site = SITES[probe.facts["site"]]
        self._handles = [
            model.module.register_forward_pre_hook(self._begin, with_kwargs=True),
            *(listen(model, site, layer, partial(self._read, place))
              for place, layer in enumerate(self._reads)),
        ]  # fmt: skip

    @property
    def scores(self) -> Tensor:
        """Return the scores of this thread's last forward pass, on the CPU in float32.

        A score is the probability of the second of two classes, or a predicted number. [texts], or
        with ``every_token`` [texts, tokens], NaN at padding. With C > 2 classes a last axis of C
        has the probability of each.

        Raises
        ------
        UserError
            This thread has not run the model yet.
        """
        return self._last_pass("scores")

    @property
    def flagged(self) -> Tensor:
        """Return which texts of this thread's last forward pass are above the threshold, as bool.

        [texts], or with ``every_token`` [texts, tokens], False at padding.

        Raises
        ------
        UserError
            There is no threshold, or this thread has not run the model yet.
        """
        if self.threshold is None:
            raise UserError("attach: nothing is flagged without fpr=… or threshold=…")
        return self._last_pass("flagged")

    def _last_pass(self, name: str) -> Tensor:
        values: Tensor | None = getattr(self._running, name, None)
        if values is None:
            raise UserError("attach: the model has not run in this thread yet")
        return values.cpu()

    def remove(self) -> None:
        """Remove the hooks from the model; the scores of the last pass stay readable."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> AttachedProbe:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _require_own(self, module: Any, check: bool) -> LoadedModel:
        """Find the blocks of a model, and refuse one that is not the probe's."""
        probe, facts = self.probe, self.probe.facts
        base: Any = base_of(module)
        if not all(facts.get(fact) for fact in ("model", "site")):
            raise UserError("attach: the probe is of arrays or of another network, no language "
                            "model")  # fmt: skip
        if not hasattr(base, "get_input_embeddings"):
            raise UserError(f"attach: {type(module).__name__!r} is no model of transformers")
        model = described(type(base).__name__, base, None, base.device, base.dtype)
        width, blocks = probe.hidden_size, facts.get("blocks", model.n_blocks)
        if (model.hidden_size, model.n_blocks) != (width, blocks):
            raise UserError(
                f"attach: the model has {model.n_blocks} blocks of width {model.hidden_size}, and "
                f"the probe's, {facts['model']}, has {blocks} of width {width}"
            )
        if not check:
            return model
        if not probe.golden:
            log.warning("attach: the probe has no golden examples, so whether this is its model "
                        "is not known")  # fmt: skip
            return model
        own, golden = Own(model, facts["site"], probe), probe.golden[:_GOLDEN]
        logits, size = own.of_golden(golden)
        expected = np.array([np.atleast_1d(example.logit) for example in golden])
        dtypes = own.dtype, str(facts.get("dtype", "float32"))
        off = times_off(logits, expected, tolerated(size, dtypes))
        if off > 1:
            raise UserError(
                f"attach: the model does not give the probe's golden examples: logits differ "
                f"{off:.3g} times as much as rounding explains; if its weights are meant to "
                "differ, pass check=False"
            )
        return model

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note which tokens of this forward pass are padding."""
        shape = block_input(args, dict(kwargs)).shape[:2]
        mask = kwargs.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            mask = None
        else:  # The mask covers cached tokens too.
            mask = mask[:, -shape[1] :].bool()
        self._running.pass_ = shape, mask

    @torch.no_grad()
    def _read(self, place: int, states: Tensor) -> None:
        """Add the part of the ``place``-th layer to the logits; after the last one, score them."""
        shape, mask = self._running.pass_
        states = states.reshape(*shape, -1)
        if not self.every_token:
            last = self._last(shape, mask).to(states.device)
            states = states[torch.arange(len(states), device=states.device), last]
        directions, intercept = self._on(states.device)
        logits = states.float() @ directions[place]
        if place:
            logits += self._running.logits.to(states.device)
        self._running.logits = logits
        if place == len(self._reads) - 1:
            self._score(logits + intercept, mask)

    def _score(self, logits: Tensor, mask: Tensor | None) -> None:
        scores = _outputs(logits, len(self.probe.classes))
        if self.threshold is not None:  # By logits: probabilities near 1 round to 1.
            flagged = logits[..., 0] > float(logit(self.threshold.value))
            if self.every_token and mask is not None:
                flagged &= mask.to(flagged.device)
            self._running.flagged = flagged
        if self.every_token and mask is not None:
            padding = ~mask.to(scores.device)
            scores = scores.masked_fill(padding if scores.ndim == 2 else padding[..., None], np.nan)
        self._running.scores = scores
        if self._on_scores is not None:
            self._on_scores(scores.cpu())

    def _last(self, shape: torch.Size, mask: Tensor | None) -> Tensor:
        """Return the index of each text's last own token: not padding, nor one added. [texts]"""
        if mask is None:
            last = torch.full((shape[0],), shape[1] - 1)
        else:
            last = shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
        return last - (self._after if shape[1] > self._after else 0)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return directions [layers, d, 1 or C] and intercepts [1 or C] on a device."""
        if device not in self._directions:
            of_layers = np.split(self.probe.coef[self.layer].T, len(self._reads))
            arrays = np.stack(of_layers), self.probe.intercept[self.layer]
            directions, intercept = (
                torch.tensor(array, dtype=torch.float32, device=device) for array in arrays
            )
            self._directions[device] = directions, intercept
        return self._directions[device]


def _outputs(logits: Tensor, n_classes: int) -> Tensor:
    """Return the probability of the second of two classes, of each of more, or numbers."""
    if n_classes > 2:
        return logits.softmax(dim=-1)
    return logits[..., 0].sigmoid() if n_classes else logits[..., 0]
