"""The sites of a block at which hidden states are read: one decorated function each.

    @llmprobe.site("block_input", label="block input", reads="input")
    def block_input(model):
        \"\"\"What enters block i.\"\"\"
        return model.blocks

A new site is such a function in any file that is imported, or that a config includes. No other
code has a list of sites: config, capture, ``llmprobe check``, figures and docs use this registry.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmprobe.ground.registry import Registry

Modules = Callable[[Any], Sequence[Any]]
"""A function from a ``LoadedModel`` to one torch module for each of its blocks."""


@dataclass(frozen=True)
class Site:
    """One place of every block at which hidden states are read."""

    name: str
    modules: Modules
    label: str
    """The name in figures, as in ``layer (label)``."""
    summary: str
    """What is read there, for the documentation."""
    reads: Literal["input", "output"]
    """Which side of the modules is read."""
    has_layer_0: bool
    """Whether what enters the first module is layer 0; otherwise the first layer is 1."""

    def layers(self, n_blocks: int) -> range:
        """Return the numbers of the layers at this site in a model of ``n_blocks`` blocks."""
        return range(0 if self.has_layer_0 else 1, n_blocks + 1)


SITES: Registry[Site] = Registry("site")


def site(
    name: str,
    *,
    label: str = "",
    reads: Literal["input", "output"] = "output",
    has_layer_0: bool = False,
) -> Callable[[Modules], Modules]:
    """Register a site: ``@llmprobe.site("gate", label="gate")`` over a function of a model.

    The function takes a ``LoadedModel`` (``.blocks`` are its transformer blocks, ``.module`` is the
    whole model) and returns one torch module for each block. The hidden states there must have the
    width of the residual stream. The function raises ``UserError`` for a model without such a
    place. Its docstring is the documentation of the site.

    Parameters
    ----------
    label
        The name in figures; by default ``name`` with hyphens.
    reads
        Whether the hidden state is the first tensor in a module's input or what it returns.
    has_layer_0
        Whether what enters the first module is layer 0.

    Raises
    ------
    UserError
        There is a site of that name already.
    """

    def register(modules: Modules) -> Modules:
        summary = " ".join((inspect.getdoc(modules) or name).split())
        SITES.add(
            name, Site(name, modules, label or name.replace("_", "-"), summary, reads, has_layer_0)
        )
        return modules

    return register


def axis_label(name: str) -> str:
    """Return the label of the layer axis for a site; ``""`` stands for layers from anywhere.

    >>> axis_label("post_attention_norm")
    'layer (post-attention-norm)'
    """
    name = name or "residual"
    return f"layer ({SITES[name].label if name in SITES else name.replace('_', '-')})"


def sites_table() -> str:
    """Return a Markdown table of all sites, for the documentation."""
    rows = [
        f"| `{site.name}` | {'0' if site.has_layer_0 else '1'} | {site.summary} |"
        for site in SITES.values()
    ]
    return "\n".join(["| site | first layer | hidden state |", "|---|--:|---|", *rows])


@site("residual", label="0: the embedding", has_layer_0=True)
def _residual(model: Any) -> Sequence[Any]:
    """The residual stream: layer 0 enters block 1, and layer *i* leaves block *i*, before the final
    norm.
    """
    blocks: Sequence[Any] = model.blocks
    return blocks


@site("attention")
def _attention(model: Any) -> Sequence[Any]:
    """What the attention of block *i* adds to the residual stream."""
    return model.sublayer("attention")  # type: ignore[no-any-return]


@site("mlp")
def _mlp(model: Any) -> Sequence[Any]:
    """What the MLP, or the mixture of experts, of block *i* adds to the residual stream."""
    return model.sublayer("mlp")  # type: ignore[no-any-return]


@site("post_attention_norm")
def _post_attention_norm(model: Any) -> Sequence[Any]:
    """The output of the norm after the attention of block *i*, which Jin et al. (2024) probe."""
    return model.sublayer("post_attention_norm")  # type: ignore[no-any-return]
