"""Tokenizers and configurations of tiny models over a few words."""

from __future__ import annotations

from pathlib import Path

WORDS = (
    "a the is of to not and coin flips heads up still capital city Lima Peru Paris France Bern "
    "red green blue one two three four five six seven eight nine ten statement true false or"
).split()


def save_tokenizer(folder: Path, *, bos: bool = False, left: bool = False) -> None:
    """A word-level tokenizer over ``WORDS``; ``left`` pads as Llama's and Gemma's do."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "<pad>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    if bos:
        tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left" if left else "right",
    ).save_pretrained(folder)


def tiny_config(architecture: str):
    """The configuration of a tiny instance of one of transformers' own classes."""
    import transformers as hf

    sizes = {"vocab_size": len(WORDS) + 4, "hidden_size": 32, "num_hidden_layers": 3,
             "num_attention_heads": 4, "intermediate_size": 48}  # fmt: skip
    window = {"max_position_embeddings": 64}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    gpt2 = {"vocab_size": len(WORDS) + 4, "n_embd": 32, "n_layer": 3, "n_head": 4}
    configs = {
        "llama": lambda: hf.LlamaConfig(**sizes, **window, **ids, num_key_value_heads=2),
        "mistral": lambda: hf.MistralConfig(
            **sizes, **window, **ids, num_key_value_heads=2, sliding_window=4
        ),
        "gemma3": lambda: hf.Gemma3TextConfig(
            **sizes, **window, **ids, num_key_value_heads=2, head_dim=8, sliding_window=4,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        "gpt2": lambda: hf.GPT2Config(**gpt2, n_positions=64, **ids),
        "gpt_neox": lambda: hf.GPTNeoXConfig(**sizes, **window, **ids),
        "opt": lambda: hf.OPTConfig(
            vocab_size=len(WORDS) + 4, hidden_size=32, num_hidden_layers=3, ffn_dim=48,
            num_attention_heads=4, word_embed_proj_dim=32, **window, **ids,
        ),
        "bloom": lambda: hf.BloomConfig(
            vocab_size=len(WORDS) + 4, hidden_size=32, n_layer=3, n_head=4, **ids
        ),
        "bert": lambda: hf.BertConfig(**sizes, **window, pad_token_id=3),
    }  # fmt: skip
    return configs[architecture]()
