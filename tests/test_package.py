"""The built wheel works without the checkout that it was built from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_the_code_the_data_and_the_configs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = [path for kind in ("data/*.csv", "configs/*.yaml") for path in ROOT.glob(kind)]
    assert shipped
    assert {f"llmprobe/{path.relative_to(ROOT)}" for path in shipped} <= names
    kinds = (".py", ".jinja", ".yaml")
    code = [path for path in (ROOT / "llmprobe").rglob("*") if path.suffix in kinds]
    assert {str(path.relative_to(ROOT)) for path in code} <= names
    assert "llmprobe/py.typed" in names
    assert not [name for name in names if name.startswith("tests/")]


def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    unpacked, empty = tmp_path / "unpacked", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(unpacked)
    empty.mkdir()
    code = (
        "import llmprobe; from llmprobe.config.load import load_config\n"
        "print(llmprobe.__file__)\n"
        "print(len(llmprobe.load_dataset('capitals')), load_config('quickstart').name)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=empty, env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    file, loaded = done.stdout.splitlines()
    assert Path(file).is_relative_to(unpacked)
    assert loaded == "4344 quickstart"


@pytest.mark.packaged
def test_the_wheel_runs_the_quickstart_in_an_environment_of_its_own(
    wheel: Path,
    packaged_cache: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            list(map(str, command)), cwd=elsewhere, env=clean,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python,
        "install", "--no-deps", "--no-index", wheel,
    )  # fmt: skip
    installed = Path(run(python, "-c", "import llmprobe; print(llmprobe.__file__)").strip())
    assert installed.is_relative_to(environment)
    # What it needs takes gigabytes; it is read from where the tests have it.
    shared = installed.parents[1] / "shared.pth"
    shared.write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    command = environment / "bin" / "llmprobe"
    printed = run(
        command, "run", "quickstart", "--limit", "240", "--set", "models=[smollm2-135m]",
        "--set", "extract.layers=[10, 20]", "--set", "probe.permutations=0",
        "--set", "probe.description_length=false", "--set", "report.traces=0",
    )  # fmt: skip
    assert "smollm2-135m on coin_flip: " in printed
    assert (elsewhere / "runs/quickstart/report.html").is_file()


def test_the_fragments_make_the_section_of_a_release() -> None:
    pytest.importorskip("towncrier")
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "99.0"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fragments = [path for path in (ROOT / "changelog.d").glob("*.md") if path.name != "README.md"]
    assert done.stdout.count("\n- ") == len(fragments)
    for path in fragments:
        assert path.read_text(encoding="utf-8").split("\n")[0] in done.stdout


def test_every_public_name_is_there() -> None:
    import llmprobe

    for name in llmprobe.__all__:
        assert getattr(llmprobe, name) is not None
    assert set(llmprobe.__all__) <= set(dir(llmprobe))
    source = Path(llmprobe.__file__).read_text(encoding="utf-8")
    assert sorted(re.findall(r"^    from [\w.]+ import (\w+) as \1$", source, re.M)) == (
        llmprobe.__all__
    ), "what type checkers see"
    with pytest.raises(AttributeError, match="has no attribute 'prob'"):
        _ = llmprobe.prob
