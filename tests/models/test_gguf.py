"""GGUF files become folders of all that a model reads and says."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmprobe.config.schema import ModelConfig
from llmprobe.models.gguf import convert_gguf
from llmprobe.models.loading import load_language_model, load_model

WORDS = ["<|end|>", *"abcdefgh", "Ġ", "ab", "cd"]
WIDTH, INNER, HEADS = 8, 16, 2


def write_gguf(path: Path, *, own_head: bool) -> dict[str, np.ndarray]:
    """Write a random model of one block; return its tensors."""
    random = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (len(WORDS), WIDTH), "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,), "blk.0.ffn_norm.weight": (WIDTH,),
        **{f"blk.0.attn_{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        **{f"blk.0.attn_{name}.bias": (WIDTH,) for name in "qkv"},
        "blk.0.ffn_gate.weight": (INNER, WIDTH), "blk.0.ffn_up.weight": (INNER, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, INNER),
    }  # fmt: skip
    if own_head:
        shapes["output.weight"] = (len(WORDS), WIDTH)
    tensors = {name: random.normal(size=of).astype(np.float32) for name, of in shapes.items()}
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, *[1] * (len(WORDS) - 1)])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.mark.parametrize("own_head", [True, False])
def test_a_head_of_its_own_is_kept_and_a_tied_one_is_the_embedding(
    tmp_path: Path, own_head: bool
) -> None:
    (tmp_path / "files").mkdir()
    tensors = write_gguf(tmp_path / "files" / "tiny.gguf", own_head=own_head)
    convert_gguf(tmp_path / "files" / "tiny.gguf", tmp_path / "plain")
    head = tensors["output.weight" if own_head else "token_embd.weight"]
    assert AutoConfig.from_pretrained(tmp_path / "plain").tie_word_embeddings != own_head

    config = ModelConfig(id=str(tmp_path / "plain"), dtype="float32")
    language_model, base = load_language_model(config)
    assert torch.equal(language_model.lm_head.weight, torch.from_numpy(head))
    whole = AutoModelForCausalLM.from_pretrained(
        tmp_path / "files", gguf_file="tiny.gguf", dtype=torch.float32
    )
    ids = torch.tensor([[1, 2, 10, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(language_model(ids).logits, whole(ids).logits)
        states = load_model(config).module(ids).last_hidden_state
        torch.testing.assert_close(base.module(ids).last_hidden_state, states)
