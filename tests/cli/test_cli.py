"""The command line: exit codes, what is printed where, and what is not loaded or done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from toy import QUICK, write_config, write_table

import llmprobe
from llmprobe.cli.command import command, commands
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.extraction import extract
from llmprobe.ground.errors import UserError
from llmprobe.models.packaged import PACKAGED

HEAVY = ("torch", "transformers", "sklearn", "pandas", "scipy", "matplotlib")


@pytest.fixture
def config(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    table = write_table(tmp_path / "toy.csv")
    model = {"id": str(tiny_model("llama")), "dtype": "float32"}
    return write_config(tmp_path / "toy.yaml", model, table)


def everything_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, llmprobe; print([m for m in {HEAVY} if m in sys.modules])"
    assert run_python(code).stdout == "[]\n"


def test_a_warning_that_holds_for_several_curves_is_printed_once() -> None:
    code = (
        "import logging\n"
        "from llmprobe.cli.command import command\n"
        "from llmprobe.cli.main import main\n"
        "@command('warn', 'Warn.')\n"
        "def warn(options):\n"
        "    for level in (logging.WARNING, logging.WARNING, logging.INFO, logging.INFO):\n"
        "        logging.getLogger('llmprobe').log(level, '%s', 'few texts')\n"
        "main(['warn'])"
    )
    assert run_python(code).stderr == "few texts\n" * 3


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, llmprobe.cli.main\n"
        "try: llmprobe.cli.main.main(['run', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"print([m for m in {(*HEAVY, 'pydantic', 'yaml')} if m in sys.modules])"
    )
    done = run_python(code)
    assert done.stdout.startswith("usage: llmprobe run ")
    assert done.stdout.endswith("[]\n")


def test_results_go_to_stdout_and_logs_to_stderr(config: Path) -> None:
    command = [sys.executable, "-m", "llmprobe", "extract", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("tiny-llama on toy: 40 texts, layers 0 to 3, ")
    assert done.stdout.count("\n") == 1
    checks, model, cost = done.stderr.splitlines()
    assert checks.startswith("toy: a single word gives labels away: 'blue' ")
    assert model.startswith("tiny-llama: LlamaModel, 3 blocks of width 32, ")
    assert cost.startswith("tiny-llama on toy: 160 tokens")


@pytest.mark.parametrize(
    "words",
    [[], ["no-such-command"], ["run"], ["ls"], ["ls", "cats"], ["run", "c", "--limit", "x"]],
)
def test_a_command_that_is_none_ends_with_2(
    words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "usage: llmprobe" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == llmprobe.__version__


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (UserError("x.csv: wrong"), 2, "llmprobe: x.csv: wrong\n"),
        (KeyboardInterrupt(), 130, "llmprobe: interrupted; what was finished is kept"),
        (OSError(28, "No space left on device", "x"), 1, "llmprobe: the disk is full: "),
        (
            PermissionError(13, "Permission denied", "/x"),
            2,
            "llmprobe: Permission denied (/x)\n",
        ),
    ],
)
def test_how_a_command_ends_is_its_exit_code(
    capsys: pytest.CaptureFixture[str],
    error: BaseException | None,
    code: int,
    said: str,
) -> None:
    @command("end", "End like this.")
    def end(_: object) -> None:
        if error:
            raise error

    try:
        assert main(["end"]) == code
    finally:
        commands.remove("end")
    assert capsys.readouterr().err.startswith(said)


ESCAPES = "\x1b]0;mine\x07\x1b[2J\x9b31m\u202e"


def test_a_strangers_names_never_reach_the_terminal_as_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"text": f"a {ESCAPES} {i}", "label": f"{ESCAPES}{i % 2}", ESCAPES: ESCAPES}
        for i in range(20)
    ]
    table = tmp_path / "my.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    assert main(["show", str(table)]) == 0
    assert main(["show", str(table), "--set", "text=claim"]) == 2
    assert main(["show", str(tmp_path / f"{ESCAPES}.csv")]) == 2
    said = "".join(capsys.readouterr())
    assert "?[2J" in said
    assert not set(ESCAPES) - set("0123456789;[]Jmine") & set(said)


def test_of_a_thousand_errors_ten_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    keys = "".join(f"key{i}: 1\n" for i in range(1000))
    config.write_text(f"models: [m]\ndatasets: [capitals]\n{keys}")
    assert main(["validate", str(config)]) == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert (len(lines), last) == (10, "and 990 more")


@pytest.mark.parametrize("command", ["show", "validate", "report"])
def test_a_name_too_long_for_the_file_system_is_said(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, f"./{'x' * 300}.csv"]) == 2
    assert "x" * 300 in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("end", ["pass", "raise UserError('wrong model')", "1 / 0"])
def test_control_c_twice_ends_as_once_does_whatever_comes_of_it(end: str) -> None:
    code = f"""
import os, signal
from llmprobe.cli.command import command
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.ground.errors import UserError
signal.signal(signal.SIGINT, signal.default_int_handler)
@command("work", "Work.")
def work(_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("kept")
        {end}
code = main(["work"])
os.kill(os.getpid(), signal.SIGINT)
raise SystemExit(code)
"""
    done = run_python(code)
    assert (done.returncode, done.stdout) == (130, "kept\n")
    assert done.stderr.startswith("llmprobe: interrupted; what was finished is kept")
    assert done.stderr.count("\n") == 1


def test_a_bug_shows_its_traceback_and_ends_with_1() -> None:
    code = (
        "from llmprobe.cli.command import command\n"
        "from llmprobe.cli.main import main\n"
        "@command('bug', 'Fail.')\n"
        "def bug(_): raise ZeroDivisionError\n"
        "raise SystemExit(main(['bug']))"
    )
    done = run_python(code)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_validate_prints_a_config_that_validates_to_itself(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(config), "--set", "probe.folds=3", "--limit", "20"]) == 0
    resolved = capsys.readouterr().out
    assert yaml.safe_load(resolved)["probe"]["folds"] == 3
    assert yaml.safe_load(resolved)["datasets"][0]["n"] == 20
    again = tmp_path / "again.yaml"
    again.write_text(resolved)
    assert main(["validate", str(again)]) == 0
    assert capsys.readouterr().out == resolved


def test_validate_reads_the_data_and_writes_nothing(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = everything_in(tmp_path)
    assert main(["validate", str(config)]) == 0
    assert everything_in(tmp_path) == before
    (tmp_path / "toy.csv").write_text("text,label\na,0\nb,0\n")
    assert main(["validate", str(config)]) == 2


def test_validate_says_that_a_device_for_probing_is_not_here(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(config), "--set", "probe.device=gpu"]) == 2
    assert capsys.readouterr().err == (
        "llmprobe: probe.device 'gpu' is no device; it should be auto, cpu, cuda, cuda:1 or mps\n"
    )


@pytest.mark.parametrize("command", ["run", "extract", "probe", "validate"])
def test_a_dry_run_estimates_and_writes_nothing(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = everything_in(tmp_path)
    assert main([command, str(config), "--dry-run"]) == 0
    said = capsys.readouterr().out
    # For each of five subjects: it, "is", two colours, eight numbers; 40 x 4 layers x 32 x 4 bytes.
    extraction, probing = said.splitlines()
    assert extraction == (
        "tiny-llama on toy: 40 texts, 160 tokens (60 unique), prefix tree (60 to compute), "
        "20 kB on disk, under a second"
    )
    assert probing.startswith("tiny-llama on toy: 40 texts, probing 4 layers, ")
    assert everything_in(tmp_path) == before


def test_a_dry_run_reads_the_files_of_a_model_once(
    tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "toy.csv")
    loaded: list[str] = []
    for name in ("load_tokenizer", "load_architecture"):
        load = getattr(extract, name)
        monkeypatch.setattr(
            extract, name, lambda *of, name=name, load=load: loaded.append(name) or load(*of)
        )
    model = {"id": str(tiny_model("llama")), "dtype": "float32"}
    config = write_config(tmp_path / "c.yaml", model, table)
    both = json.dumps([{"path": str(table)}, {"path": str(table), "as": "again"}])
    assert main(["run", str(config), "--dry-run", "--set", f"datasets={both}"]) == 0
    assert sorted(loaded) == ["load_architecture", "load_tokenizer"]


def test_a_dry_run_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a network connection")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("subprocess.run", refused)
    config = write_config(
        tmp_path / "c.yaml", "smollm2-135m", "coin_flip", models=["smollm2-135m", "no-org/no-model"]
    )
    assert main(["run", str(config), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("would be downloaded first" in line for line in lines)
    assert not (tmp_path / "cache").exists()


def test_a_dry_run_says_what_is_already_extracted(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["extract", str(config)]) == 0
    assert "tiny-llama on toy: 40 texts, layers 0 to 3" in capsys.readouterr().out
    assert main(["run", str(config), "--dry-run", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("tiny-llama on toy: 40 texts, already extracted\n")


@pytest.mark.parametrize("model", [None, "smollm2-135m"])
def test_probing_before_extracting_says_what_to_do(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: str | None,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("subprocess.run", refused)
    chosen = ["--set", f"models={model}"] if model else []
    assert main(["probe", str(config), "--out", str(tmp_path / "run"), *chosen]) == 2
    said = capsys.readouterr().err
    assert "on toy: not extracted yet; run `llmprobe extract` with the same config first" in said


def test_stages_one_by_one_give_what_a_run_gives(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, whole = tmp_path / "alone", tmp_path / "whole"
    assert main(["extract", str(config), "--out", str(alone)]) == 0
    assert main(["probe", str(config), "--out", str(alone)]) == 0
    assert f"tables   {alone}" in capsys.readouterr().out
    assert not (alone / "report.html").exists()
    assert main(["report", str(alone)]) == 0
    capsys.readouterr()
    assert main(["run", str(config), "--out", str(whole)]) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    places = (f"tables   {whole}", f"heatmap  {whole / 'figures' / 'heatmap_accuracy.png'}",
              f"report   {whole / 'report.html'}", "")  # fmt: skip
    assert out.endswith("\n".join(places))
    for name in ("report.html", "results.csv", "figures/curves.png"):
        assert (alone / name).exists()
        assert (whole / name).exists()
    assert (alone / "results.csv").read_text() == (whole / "results.csv").read_text()


def test_a_run_on_numbers_ends_with_the_heatmap_of_r2(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", str(config), "--out", str(out), "--set", "probe.kind=ridge"]) == 0
    assert f"\nheatmap  {out / 'figures' / 'heatmap_r2.png'}\n" in capsys.readouterr().out


def test_results_go_to_runs_and_the_name_of_the_config(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["extract", str(config)])
    assert main(["probe", str(config), "--set", "name=mine"]) == 0
    assert (tmp_path / "runs" / "mine" / "results.parquet").exists()


def test_ls_models_says_what_is_known_and_what_is_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["ls", "models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (smollm,) = (line for line in lines if line.startswith("smollm2-135m"))
    assert "not downloaded" in smollm
    assert "Apache-2.0" in smollm
    table = lines[: lines.index("")]
    assert len({line.index("not downloaded") for line in table}) == 1
    models = zip(table, PACKAGED.values(), strict=True)
    assert len({line.index(model.precision) for line, model in models}) == 1


def test_ls_datasets_says_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "datasets"]) == 0
    out = capsys.readouterr().out
    assert "capitals" in out
    assert "coin_flip" in out


def test_show_describes_a_known_dataset_and_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "capitals"]) == 0
    out = capsys.readouterr().out
    for words in ("licence   CC BY 4.0", "groups", "0 = false: 2,172 (50.0 %), 1 = true: 2,172"):
        assert words in out
    assert main(["show", str(write_table(tmp_path / "toy.csv"))]) == 0
    assert "40 texts" in capsys.readouterr().out


def test_a_terminal_without_unicode_shows_what_it_can(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text("text,label\ncafé ✓,yes\nb,no\n", encoding="utf-8")
    code = "import sys; from llmprobe.cli.main import main; raise SystemExit(main(sys.argv[1:]))"
    done = run_python(code, "show", str(path), PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "yes    caf? ?" in done.stdout


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f'"{sys.executable}" -m llmprobe show coin_flip | true'
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=buffered
    )
    assert done.stderr == ""


def test_a_check_says_what_was_found_and_how_far_each_way_is_from_a_text_alone(
    tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_model("gemma3", bos=True))
    assert main(["check", model, "--set", "dtype=float32"]) == 0
    said = capsys.readouterr().out
    for found in (
        "3 × Gemma3DecoderLayer, width 32",
        "begins a text with '<s>'",
        "before + attention + mlp = after, to 0.0e+00",
        "extraction can use: prefix tree, padded batches, padded batches with a mask, one length",
    ):
        assert found in said
    (tree,) = (line.split() for line in said.splitlines() if line.startswith("  prefix tree"))
    assert all(0 < float(number) < 1e-5 for number in tree[2:])
    assert len(tree[2:]) == 4


def test_a_check_of_a_model_that_looks_ahead_offers_no_tree(
    tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tiny_model("bert")), "--set", "dtype=float32"]) == 0
    said = capsys.readouterr().out
    assert "extraction can use: padded batches with a mask, one length a batch" in said
    assert "prefix tree" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["./nowhere"], "does not exist"),
        (["smollm2-135m", "--set", "dtpye=float32"], "did you mean 'dtype'"),
        (["smolm2-135m"], "did you mean 'smollm2-135m'"),
    ],
)
def test_a_check_of_what_is_no_model_says_why(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "probe"])
def test_several_processes_share_an_extraction_and_nothing_else(
    command: str,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main([command, str(config), "--out", str(tmp_path / "out")]) == 2
    assert "several processes share `llmprobe extract` only" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dataset_and_a_model_are_a_run_that_writes_its_config(
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llmprobe.cli.run.print_report", print)  # Figures take seconds.
    rows = "".join(f"word {i} {'red' if i % 2 else 'blue'},{i % 2},{i // 3 % 2},{i // 2}\n"
                   for i in range(60))  # fmt: skip
    Path("my.csv").write_text(f"sentence,true,odd,coin\n{rows}")
    model = str(tiny_model("llama"))
    quick = [f"--set=probe.{key}={json.dumps(value)}" for key, value in QUICK.items()]
    quick += ["--set=report.traces=0"]
    columns = ["--model", model, "--label", "true", "--group", "coin"]
    assert main(["run", "my.csv", *columns, *quick]) == 0
    assert "config   runs/my/config.yaml" in capsys.readouterr().out
    config = load_config("runs/my/config.yaml")
    (dataset,) = config.datasets
    assert (dataset.label, dataset.group, dataset.text) == ("true", "coin", None)
    assert [m.id for m in config.models] == [model]
    assert main(["validate", "my.csv", "--model", model, "--label", "true", "--label", "odd"]) == 0
    assert "label:\n  - 'true'\n  - odd" in capsys.readouterr().out
    assert main(["run", "my.csv", "--label", "true"]) == 2
    assert "as in `llmprobe run my.csv --model smollm2-135m`" in capsys.readouterr().err
    Path("my.yaml").write_text("models: [a]\ndatasets: [b]\n")
    assert main(["run", "my.yaml", "--label", "true"]) == 2
    assert "is a config, which names its models and columns" in capsys.readouterr().err
