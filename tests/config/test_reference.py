"""The reference of the config and the commands: what is documented is what is there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from llmprobe.cli.main import main, parser
from llmprobe.config.reference import json_schema, reference
from llmprobe.config.schema import RunConfig

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line}")
    for page in PAGES
    for line in re.findall(r"^(?: {4})?llmprobe ([a-z].*)", page.read_text("utf-8"), re.MULTILINE)
]


def test_docs_config_md_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "config", "--format", "markdown"]) == 0
    page = (ROOT / "docs/config.md").read_text("utf-8")
    assert page.endswith(capsys.readouterr().out), (
        "llmprobe help config --format markdown, below the first lines of docs/config.md"
    )


def test_every_key_has_a_meaning() -> None:
    for section in reference():
        assert section.meaning
        for key in section.keys:
            assert len(key.meaning) > 10, (section.name, key.name)
            assert key.takes


def test_a_section_is_asked_for_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "config", "extract"]) == 0
    printed = capsys.readouterr().out
    assert 'site  (text; default "residual")' in printed
    assert "permutations" not in printed
    assert main(["help", "config", "probes"]) == 2
    assert "did you mean 'probe'?" in capsys.readouterr().err


def test_the_help_of_a_command_is_that_of_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for words in (["help", "score"], ["score", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            main(words)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""
    for wrong, right in (("scor", "score"), ("confg", "config")):
        assert main(["help", wrong]) == 2
        assert f"did you mean {right!r}?" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_editors_accept_the_shipped_configs(path: Path) -> None:
    raw = yaml.safe_load(path.read_text("utf-8"))
    jsonschema.validate(raw, json_schema())
    # As a run writes it, too.
    jsonschema.validate(yaml.safe_load(RunConfig.model_validate(raw).to_yaml()), json_schema())


SMALL = {"models": ["a"], "datasets": ["b"]}


@pytest.mark.parametrize(
    "more",
    [
        {"models": "a"}, {"datasets": {"name": "b", "perturb": "typos"}}, {"probe": None},
        {"transfer": True}, {"transfer": {"train": "a"}}, {"include": "mine"},
        {"models": [{"id": "a"}, "b"]}, {"extract": {"position": ["last", "mean"]}},
    ],
    ids=str,
)  # fmt: skip
def test_editors_accept_short_forms(more: dict[str, object]) -> None:
    jsonschema.validate(SMALL | more, json_schema())
    RunConfig.model_validate(SMALL | more)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"probes": {}}, "'probes' was unexpected"),
        ({"probe": {"folds": 1}}, "less than the minimum of 2"),
        ({"models": [{"id": "a", "dtype": "float8"}]}, "'float8' is not one of"),
    ],
)
def test_editors_mark_what_a_run_refuses(more: dict[str, object], says: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=says):
        jsonschema.validate(SMALL | more, json_schema())


def test_the_schema_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "config", "--format", "json-schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_in_the_docs_is_one(line: str) -> None:
    if "[--" in line:  # Not a command but what its options are.
        command, *options = re.findall(r"(?:--)?[a-z-]+", line)
        helped = parser().parse_args([command, *options[:1]])
        assert helped.command
        return
    words = shlex.split(line, comments=True)
    assert parser().parse_args(words).command
