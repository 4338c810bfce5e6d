"""``llmprobe score --file -``: texts from standard input are scored as those of a file are."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmprobe.cli.main import main
from llmprobe.monitors import text_stream
from llmprobe.monitors.scoring import score_file


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch, probe: Path):
    """``stream(content, …)``: the exit code of scoring that content of standard input."""

    def stream(content: str | bytes, *words: object) -> int:
        content = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return main(["score", str(probe), "--file", "-", *map(str, words)])

    return stream


def as_text(rows: pd.DataFrame) -> str:
    return "\n\n".join(rows["text"]) + "\r\n"


def as_jsonl(rows: pd.DataFrame) -> str:
    return rows.to_json(orient="records", lines=True)


def as_csv(rows: pd.DataFrame) -> str:
    return "\ufeff" + rows.to_csv(index=False)


FORMATS = {"text": as_text, "jsonl": as_jsonl, "csv": as_csv}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("at_a_time", [7, 256])
def test_a_stream_gets_the_scores_of_a_file(
    form: str, at_a_time: int, stream, probe: Path, table: Path, capsys, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(text_stream, "TEXTS_AT_A_TIME", at_a_time)
    rows, expected = pd.read_csv(table), score_file(probe, table, label="label")
    words = [] if form == "text" else ["--format", form, "--label", "label"]
    with caplog.at_level("INFO", logger="llmprobe"):
        assert stream(FORMATS[form](rows), *words) == 0
    scored = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert scored["text"].tolist() == rows["text"].tolist()
    assert scored["predicted"].tolist() == expected.table["predicted"].tolist()
    np.testing.assert_allclose(scored["score"], expected.table["score"], atol=2e-6)
    summary = expected.summary.removeprefix("toy.csv")
    assert f"stdin{summary if words else summary.partition('; ')[0]}" in caplog.messages


def test_a_stream_is_flagged_as_a_file_is(
    stream, probe: Path, table: Path, capsys, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(text_stream, "TEXTS_AT_A_TIME", 7)
    expected = score_file(probe, table, threshold=0.5)
    with caplog.at_level("INFO", logger="llmprobe"):
        assert stream(as_jsonl(pd.read_csv(table)), "--format", "jsonl", "--threshold", "0.5") == 0
    scored = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert scored["flagged"].tolist() == expected.table["flagged"].tolist()
    assert f"stdin{expected.summary.removeprefix('toy.csv')}" in caplog.messages


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_what_comes_in_parts_is_one_file(
    suffix: str, stream, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_stream, "TEXTS_AT_A_TIME", 7)
    out = tmp_path / f"scored{suffix}"
    assert stream(table.read_bytes(), "--format", "csv", "--out", out) == 0
    read = {".csv": pd.read_csv, ".tsv": lambda path: pd.read_csv(path, sep="\t"),
            ".jsonl": lambda path: pd.read_json(path, lines=True)}[suffix]  # fmt: skip
    assert read(out)["text"].tolist() == pd.read_csv(table)["text"].tolist()
    assert list(read(out)) == ["text", "label", "place", "predicted", "score"]


def test_no_more_is_read_than_is_scored_at_a_time() -> None:
    class Endless(io.RawIOBase):
        n_bytes = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            buffer[:] = (b"coin is red one\n" * (len(buffer) // 16 + 1))[: len(buffer)]
            self.n_bytes += len(buffer)
            return len(buffer)

    endless = Endless()
    tables: Iterator = text_stream.tables_of(io.BufferedReader(endless), "text")
    assert len(next(tables)[0]) == text_stream.TEXTS_AT_A_TIME
    assert next(tables)[1] == "stdin, texts 257 to 512"
    assert endless.n_bytes < 100_000


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("", [], "stdin: has no texts"),
        (" \n\n", [], "stdin: has no texts"),
        ("text\n", ["--format", "csv"], "stdin: has no texts"),
        ("a\ncaf\xe9".encode("latin-1"), [], "is not UTF-8; say --encoding"),
        ("a\n", ["--encoding", "utf-9"], "--encoding: 'utf-9' is not known"),
        ("a\n" + "b" * 1_000_002, [], "stdin: line 2 has more than 1,000,000 characters"),
        ('{"text": "a"}\nx\n', ["--format", "jsonl"], "stdin: line 2 is no JSON"),
        ("[1]\n", ["--format", "jsonl"], "stdin: line 1 is no JSON object"),
        ('{"words": "a"}\n', ["--format", "jsonl"], "stdin, texts 1 to 1: no column 'text'"),
        ("text,a\nx,1\ny\n", ["--format", "csv"], "line 3 has 1 cells, and the header 2"),
        ("a,a\nx,1\n", ["--format", "csv"], "two columns of the header have one name"),
        ('text\n"x\n', ["--format", "csv"], "stdin: line 2: unexpected end of data"),
        ("text\nx\n", ["--format", "csv", "--delimiter", "ab"], "--delimiter: 'ab' is not one"),
        ("a\n", ["--quoting", "none"], "--quoting: belongs to a file"),
        ("a\n", ["--out", "x.parquet"], "for a stream it should end in .csv, .tsv, .jsonl"),
        ("red " * 99, [], "stdin, texts 1 to 1: row 1: 100 tokens, and tiny-llama reads"),
    ],
)
def test_what_is_wrong_with_a_stream_is_said(
    content: str | bytes,
    words: list[str],
    message: str,
    stream,
    tmp_path: Path,
    capsys,
    monkeypatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stream(content, *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize(
    ("first", "form"),
    [("label,Text", "csv"), ("text", "csv"), ('{"text": "coin"}', "jsonl"), ("coin, red", None)],
)
def test_a_first_line_of_another_format_is_noticed_and_read_as_a_text(
    first: str, form: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    content = f"{first}\ncoin is red one\n".encode()
    ((table, _),) = text_stream.tables_of(io.BytesIO(content), None)
    assert table["text"].tolist() == [first, "coin is red one"]
    assert [message.endswith(f"is it --format {form}?") for message in caplog.messages] == [
        True
    ] * bool(form)
    caplog.clear()
    assert len([*text_stream.tables_of(io.BytesIO(content), "text")]) == 1
    assert not caplog.messages


def test_columns_that_only_some_rows_have_fit_into_jsonl(
    stream, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_stream, "TEXTS_AT_A_TIME", 1)
    rows = '{"text": "coin is red one"}\n{"text": "city is blue two", "place": "Bern"}\n'
    assert stream(rows, "--format", "jsonl") == 2
    said = capsys.readouterr()
    assert "only some rows have 'place'; --out FILE.jsonl can hold them" in said.err
    assert said.out.count("\n") == 2  # What was scored before is there.
    assert stream(rows, "--format", "jsonl", "--out", tmp_path / "s.jsonl") == 0
    written = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [row.get("place") for row in written] == [None, "Bern"]


def test_a_format_belongs_to_a_stream(probe: Path, table: Path, capsys) -> None:
    assert main(["score", str(probe), "--file", str(table), "--format", "csv"]) == 2
    assert "--format: belongs to --file -" in capsys.readouterr().err
