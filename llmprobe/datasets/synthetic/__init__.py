"""Tasks that are generated in any number, most of them with a dial; a module for each.

One more is a function decorated with ``synthetic`` that returns how a text is written.
"""

from llmprobe.datasets.synthetic.common import GIVEN_NAMES, Write, generate, synthetic

__all__ = ["GIVEN_NAMES", "Write", "generate", "synthetic"]
