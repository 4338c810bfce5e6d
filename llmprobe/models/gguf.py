"""GGUF files as plain folders of safetensors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmprobe.ground.errors import foreign_errors, out_of_memory
from llmprobe.ground.files import disk_is_full, require_space

log = logging.getLogger(__name__)


def convert_gguf(gguf: Path, folder: Path, dtype: str = "float32") -> None:
    """Convert a GGUF file to a folder of safetensors of a dtype, which transformers loads.

    A head that is not tied to the embeddings is kept, since what a model says comes out of it.
    """
    import torch
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoTokenizer,
    )

    # In float32, a file of 3 bits a weight grows to about ten times its size.
    require_space(folder.parent, 10 * gguf.stat().st_size, f"converting {gguf.name}")
    log.info("%s: converting to safetensors (under a minute, once)", gguf.stem)
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    with user_errors(f"{gguf.name} cannot be read as GGUF"):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        config = AutoConfig.from_pretrained(**source)
        has_head = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.tie_word_embeddings
        kind = AutoModelForCausalLM if has_head else AutoModel
        dequantised = kind.from_pretrained(**source, dtype=getattr(torch, dtype))
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
    """Turn what transformers raises into a ``UserError`` that begins with ``problem``."""
    with _quiet(), foreign_errors(problem, lambda e: disk_is_full(e) or out_of_memory(e)):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars and warnings of loading; ours say what matters."""
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
