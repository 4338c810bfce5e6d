"""``llmprobe answer MODEL DATASET --out F``: what the model itself answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmprobe.cli.command import add_include, add_set, command
from llmprobe.cli.output import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a known name, a Hub id, or a folder")
    parser.add_argument("dataset", metavar="DATASET", help="a known name, or a file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .jsonl file")
    parser.add_argument("--chat", action="store_true", help="each text is a user's turn of a chat")
    parser.add_argument(
        "--max-tokens", type=int, default=32, metavar="N", help="length of an answer; default: 32"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT",
        help="a text that ends an answer, e.g. $'\\n'; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--judge", choices=["exact", "number", "label"],
        help="an answer is right if it is the expected text (exact), if its last number is the "
        "expected one (number), or if the first label in it is (label)",
    )  # fmt: skip
    parser.add_argument(
        "--expected", metavar="COLUMN", help="the right answers, for --judge; default: the label"
    )
    parser.add_argument(
        "--word", action="append", default=[], metavar="LABEL=WORD", dest="words",
        help="the word for a label in answers, for --judge label: --word 1=true --word 0=false",
    )  # fmt: skip
    parser.add_argument("--template", help="the prompt, e.g. '{text} Answer:'")
    parser.add_argument("--limit", type=int, metavar="N", help="the most examples")
    add_set(parser, "a key of the dataset's mapping", "text=question")
    parser.add_argument(
        "--set-model", action="append", default=[], dest="model_overrides", metavar="KEY=VALUE",
        help="a key of the model's mapping, e.g. --set-model dtype=float32",
    )  # fmt: skip
    add_include(parser)


@command("answer", "Let a model answer the texts of a dataset, greedily.", _add_arguments)
def answer(options: argparse.Namespace) -> None:
    """Write the answers as a dataset, and print how many are right and how to probe them."""
    from llmprobe.config.load import dataset_config, model_config
    from llmprobe.datasets.from_config import dataset_from_config
    from llmprobe.datasets.include import include
    from llmprobe.ground.errors import UserError

    for path in options.include:
        include(path)
    model = model_config(options.model, options.model_overrides)
    more = {"template": options.template, "n": options.limit}
    more = {key: value for key, value in more.items() if value is not None}
    words = dict(word.partition("=")[::2] for word in options.words)
    if not all(words.values()):
        raise UserError("--word: write it as LABEL=WORD, e.g. --word 1=true")
    dataset = dataset_from_config(dataset_config(options.dataset, options.overrides, **more))
    from llmprobe.monitors.answers import Asked, answer_all

    asked = Asked(options.chat, options.max_tokens, tuple(options.stop), options.judge,
                  options.expected, words)  # fmt: skip
    say(answer_all(model, dataset, asked, options.out))
