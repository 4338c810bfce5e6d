"""GGUF files as plain folders of safetensors: converted once, then loaded in a second or two."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from llmprobe.ground.errors import foreign_errors, out_of_memory
from llmprobe.ground.files import cache_folder, disk_is_full, require_space

log = logging.getLogger(__name__)

CONVERSION = 1
"""Raise when the conversion writes something else, so that older folders are not used."""


def converted_folder(name: str, sha256: str) -> Path:
    """Return the folder in which the GGUF file with this digest stands, once converted."""
    return cache_folder() / "models" / f"{name}-{sha256[:12]}-v{CONVERSION}"


def converted(name: str, sha256: str, obtain: Callable[[Path], Path]) -> Path:
    """Return the converted folder; ``obtain(scratch)`` gives the GGUF file when it must be made.

    One process converts while others wait. The folder takes its name only when it is whole, and
    what an interrupted conversion left behind is removed by the next one.
    """
    folder = converted_folder(name, sha256)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if folder.is_dir():
            return folder
        for stale in folder.parent.glob(f".{folder.name}.partial-*"):
            shutil.rmtree(stale)
        prefix = f".{folder.name}.partial-"
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as scratch:
            gguf = obtain(Path(scratch))
            plain = Path(scratch) / "plain"
            _convert(gguf, plain)
            plain.rename(folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file as a folder of safetensors that transformers loads."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    # 4-bit weights become 32-bit ones; 10 covers what files of 3 bits a weight need.
    require_space(folder.parent, 10 * gguf.stat().st_size, f"converting {gguf.name}")
    log.info("%s: converting to safetensors (under a minute, once)", gguf.stem)
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    with user_errors(f"{gguf.name} cannot be read as GGUF"):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        dequantised = AutoModel.from_pretrained(**source, dtype=torch.float32)
    # The weights are plain by now but the model still says that it is quantised, and refuses to
    # be saved. A fresh model of the same configuration, given the weights, makes no such claim,
    # and the strict load proves that they are plain.
    config = dequantised.config
    del config.quantization_config
    with torch.device("meta"):
        model = type(dequantised)(config)
    model.load_state_dict(dequantised.state_dict(), assign=True, strict=True)
    with _quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def user_errors(problem: str) -> Iterator[None]:
    """Raise what transformers raises for damaged files as a ``UserError`` that begins so."""
    with _quiet(), foreign_errors(problem, lambda e: disk_is_full(e) or out_of_memory(e)):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the progress bars and warnings of loading; ours say what matters."""
    from transformers.utils import logging as hf

    verbosity, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity_error()
    hf.disable_progress_bar()
    try:
        yield
    finally:
        hf.set_verbosity(verbosity)
        if bars:
            hf.enable_progress_bar()
