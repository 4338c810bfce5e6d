"""Tasks that are generated, each with a dial; importing this registers them."""

from llmprobe.datasets.synthetic import (  # noqa: F401
    arithmetic,
    boolean,
    brackets,
    coin_flip,
    gym,
    multi_hop,
    parity,
    syllogism,
    transitive_order,
)
