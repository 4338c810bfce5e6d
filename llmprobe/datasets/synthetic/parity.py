"""Parity: how often is a word in a list, modulo 2?"""

from __future__ import annotations

import numpy as np

from llmprobe.datasets.options import require_whole
from llmprobe.datasets.synthetic.common import GIVEN_NAMES, Write, synthetic

# All of six letters, so that the length of a text does not depend on the count.
_WORDS = """
banana basket bottle bridge bucket button camera candle carpet carrot castle cherry cookie copper
cotton donkey dragon engine falcon finger flower forest garden guitar hammer helmet island jacket
jungle kettle ladder lizard magnet marble market mirror monkey museum napkin needle orange palace
parrot pencil pepper pillow planet pocket puzzle rabbit ribbon rocket saddle salmon school shadow
silver spider square statue street ticket tomato tunnel turtle valley velvet violin wallet walnut
window winter
"""
WORDS = _WORDS.split()
LONGEST = 20


@synthetic(
    "parity",
    "Is a word in a list an even number of times?",
    answers=("no", "yes"),
    description="Is this word in the list an even (or: odd) number of times: yes or no?",
    dial="length",
)
def parity(length: int = 6) -> Write:
    """Does one of the two words of a list occur an even (or odd) number of times (yes or no)?

    "Ana wrote: tomato garden tomato. Is the word tomato there an even number of times?" Parity
    is the textbook case of a function that depends on all its inputs at once (Minsky and Papert
    1969, "Perceptrons", chapter 3) and hard for transformers in theory (Hahn 2020, "Theoretical
    limitations of self-attention in neural sequence models").

    No cue is left: each place of the list has one word or the other with equal chance, and then
    the answer decides whether the question says "even" or "odd". So neither the words nor the
    question says anything alone.

    Fields: ``list`` (``span:list`` is its end, where the model does not yet know what is asked),
    ``word`` (the one that is counted), ``count``, ``asked``, ``length``.

    Parameters
    ----------
    length
        The dial: words in the list, from 2 to 20.

    Raises
    ------
    UserError
        A number is out of its range.
    """
    require_whole("parity", "length", length, 2, LONGEST)

    def write(rng: np.random.Generator, yes: int) -> tuple[str, dict[str, object]]:
        word, other = rng.choice(WORDS, size=2, replace=False).tolist()
        counted = rng.integers(2, size=length)
        words = " ".join(word if counts else other for counts in counted)
        is_even = counted.sum() % 2 == 0
        asked = "even" if is_even == bool(yes) else "odd"
        text = (
            f"{rng.choice(GIVEN_NAMES)} wrote: {words}. "
            f"Is the word {word} there an {asked} number of times?"
        )
        fields = {
            "list": words,
            "word": word,
            "count": int(counted.sum()),
            "asked": asked,
            "length": length,
        }
        return text, fields

    return write
