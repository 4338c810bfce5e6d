"""``llmprobe help TOPIC``: the options of a command, or the keys of a config."""

from __future__ import annotations

import argparse

from llmprobe.cli.command import command, commands
from llmprobe.cli.output import say
from llmprobe.ground.errors import UserError, suggestion


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "topic", metavar="TOPIC", nargs="?", help="config, or a command; by default all commands"
    )
    parser.add_argument("section", metavar="SECTION", nargs="?", help="a part of a config: probe")
    parser.add_argument(
        "--format", choices=["text", "markdown", "json-schema"], default="text",
        help="how to print a config's keys; json-schema is for editors",
    )  # fmt: skip


@command("help", "Print the keys of a config (llmprobe help config), or a command's options.",
         _add_arguments)  # fmt: skip
def show_help(options: argparse.Namespace) -> None:
    """Print the keys of a config with their meaning, or the help of a command."""
    if options.topic != "config":
        from llmprobe.cli.main import print_help

        if options.topic not in (None, *commands):
            raise UserError(f"no such topic; {suggestion(options.topic, ['config', *commands])}")
        print_help(options.topic)
        return
    import json

    from llmprobe.config.reference import (
        as_markdown,
        as_text,
        json_schema,
        reference,
        reference_of,
    )

    if options.format == "json-schema":
        say(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return
    sections = [reference_of(options.section)] if options.section else reference()
    say(as_markdown(sections) if options.format == "markdown" else as_text(sections))
