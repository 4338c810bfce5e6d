"""Tasks with any number of generated texts, most of them with a dial; one module each.

To add one, decorate a function with ``synthetic``; it returns a function that writes one text.
"""

from llmprobe.datasets.synthetic.common import GIVEN_NAMES, Write, generate, synthetic

__all__ = ["GIVEN_NAMES", "Write", "generate", "synthetic"]
