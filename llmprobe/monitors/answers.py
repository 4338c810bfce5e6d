"""What a model itself answers to the texts of a dataset, and whether that is right."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmprobe.config.schema import ExtractConfig, ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.spans import Turn
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.chats import rendered
from llmprobe.extraction.every_token import read_every_token
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.tokens import added_tokens, model_window
from llmprobe.ground.errors import UserError, foreign_errors, out_of_memory, suggestion
from llmprobe.ground.files import digest, write_text
from llmprobe.ground.progress import Progress
from llmprobe.models.loading import LoadedModel, load_language_model

log = logging.getLogger(__name__)

BATCH = 16
"""Prompts of one length that are answered together."""
CHECKED = 3
"""How many answers are read again, to compare their states with those of the generation."""


@dataclass(frozen=True)
class Asked:
    """How a model is asked, and how its answers are judged."""

    chat: bool = False
    """Whether each text is a user's turn of a chat."""
    max_tokens: int = 32
    """Most tokens of an answer."""
    stop: tuple[str, ...] = ()
    """Texts at which an answer ends."""
    judge: str | None = None
    """``exact``, ``number`` or ``label``; None for no judgement."""
    expected: str | None = None
    """The column of the right answers; by default the labels are the right answers."""
    words: Mapping[str, str] | None = None
    """The words with which an answer says each label; by default the label itself."""


def answer_all(model: ModelConfig, dataset: ConceptDataset, asked: Asked, out: Path) -> str:
    """Write a row for each example with the model's greedy answer; return a summary.

    Finished answers are kept beside ``out``, so that an interrupted command resumes from there.
    Prompts of one length are answered together, so that there is no padding.

    Raises
    ------
    UserError
        ``out`` exists already; the model has no head or no chat template; a prompt leaves no room
        for an answer; there is no column of expected answers.
    """
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: should end in .jsonl")
    if out.exists():
        raise UserError(f"--out {out}: exists already; give another name, or remove it")
    if asked.max_tokens < 1:
        raise UserError(f"--max-tokens {asked.max_tokens}: an answer has at least one token")
    turns = _turns(dataset, asked)
    rights = _expected(dataset, asked)
    head, base = load_language_model(model)
    extractor = Extractor(model, ExtractConfig(chat_template=asked.chat))
    prompts = _prompts(extractor, dataset, base, asked.max_tokens)
    weights = [extractor.source.identity, dict(extractor.source.beside), model.weights, model.seed,
               model.quantization, str(base.dtype)]  # fmt: skip
    kept = _Kept(out, digest([weights, prompts, asked.max_tokens, asked.stop]))
    with Progress(f"answering {dataset.name} with {model.name}", len(prompts)) as bar:
        bar.advance(len(kept.answers))
        for rows in _batches(prompts, kept.answers.keys()):
            texts = _generate(head, base, [prompts[row] for row in rows], asked)
            kept.add(dict(zip(rows, texts, strict=True)))
            bar.advance(len(rows))
    answers = [kept.answers[row] for row in range(len(prompts))]
    lines = [f"{out}: {len(answers):,} answers of {model.name}"]
    right = None
    if asked.judge is not None:
        judge = _JUDGES[asked.judge]
        known = sorted({*rights}, key=len, reverse=True)
        right = [judge(answer, one, known) for answer, one in zip(answers, rights, strict=True)]
        lines[0] += f", {100 * sum(right) / len(right):.1f} % of them right ({asked.judge})"
    empty = sum(not answer.strip() for answer in answers)
    if empty == len(answers):
        raise UserError(f"{dataset.name}: every answer of {model.name} is empty; try another "
                        "prompt, e.g. with --template or --chat")  # fmt: skip
    if empty:
        lines.append(f"{empty} of them are empty, have no token to probe, and are left out")
    write_text(out, "".join(_lines(dataset, turns, answers, right)))
    kept.remove()
    lines += _read_again(head, base, dataset, turns, prompts, answers, asked)
    lines.append(_how_to_probe(out, turns, right is not None))
    return "\n".join(lines)


def _turns(dataset: ConceptDataset, asked: Asked) -> list[list[Turn]] | None:
    """Return the turns of each prompt; None where the model continues plain texts."""
    if dataset.words is not None:
        raise UserError(f"{dataset.name}: its labels are of words in a text; only texts with a "
                        "label of their own can be answered")  # fmt: skip
    if dataset.turns is None:
        return [[Turn("user", 0, len(t))] for t in dataset.texts] if asked.chat else None
    for row, turns in enumerate(dataset.turns):
        if turns[-1].role == "assistant":
            raise UserError(f"{dataset.name}: example {row} ends with an answer already; give "
                            "chats that end with the user's turn")  # fmt: skip
    return dataset.turns


def _expected(dataset: ConceptDataset, asked: Asked) -> list[str]:
    """Return the right answer for each example, as a text. [n]"""
    if asked.judge is None:
        if asked.expected or asked.words:
            raise UserError("--expected and --word belong to --judge")
        return []
    values = dataset.labels.tolist()
    if asked.expected is None and dataset.concepts:
        raise UserError(f"{dataset.name}: a text has labels of {len(dataset.concepts)} concepts; "
                        "name the column of right answers with --expected")  # fmt: skip
    if asked.expected is not None:
        if asked.expected not in dataset.fields:
            known = [str(column) for column in dataset.fields.columns]
            raise UserError(f"--expected: no such column; {suggestion(asked.expected, known)}")
        values = dataset.fields[asked.expected].tolist()
    texts = [str(value) for value in values]
    if asked.judge == "number":
        other = next((text for text in texts if _number(text) is None), None)
        if other is not None:
            raise UserError(f"--judge number: the expected answer {other!r:.40} is no number")
    words = asked.words or {}
    if words and not set(texts) <= set(words):
        lacking = min(set(texts) - set(words))
        raise UserError(f"--word: no word for {lacking!r}; each label needs one")
    return [words.get(text, text) for text in texts]


def _prompts(
    extractor: Extractor, dataset: ConceptDataset, base: LoadedModel, max_tokens: int
) -> list[list[int]]:
    """Return the tokens of each prompt. [n][tokens]"""
    ids = extractor.tokens(dataset, base.tokenizer, base.module).ids
    is_chat = dataset.turns is not None or extractor.config.chat_template
    after = 0 if is_chat else added_tokens(base.tokenizer)[1]
    ids = [tokens[: len(tokens) - after] for tokens in ids]
    window = model_window(base.module)
    longest = max(range(len(ids)), key=lambda row: len(ids[row]))
    if window is not None and len(ids[longest]) + max_tokens > window:
        raise UserError(
            f"{dataset.name}: example {longest} has {len(ids[longest])} tokens, and an answer of "
            f"{max_tokens} does not fit after it into the model's window of {window}"
        )
    return ids


def _batches(prompts: list[list[int]], done: Any) -> Iterator[list[int]]:
    """Yield batches of examples whose prompts have one length, the longest first."""
    of_length: dict[int, list[int]] = {}
    for row, tokens in enumerate(prompts):
        if row not in done:
            of_length.setdefault(len(tokens), []).append(row)
    for length in sorted(of_length, reverse=True):
        rows = of_length[length]
        yield from (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))


@torch.inference_mode()
def _generated(
    head: Any, base: LoadedModel, prompts: Sequence[list[int]], asked: Asked, **more: Any
) -> Any:
    """Return what transformers generates greedily after prompts of one length."""
    from transformers import GenerationConfig

    ends = head.generation_config.eos_token_id
    ends = base.tokenizer.eos_token_id if ends is None else ends
    first_end = ends[0] if isinstance(ends, list) else ends
    padding = base.tokenizer.pad_token_id
    config = GenerationConfig(
        do_sample=False, max_new_tokens=asked.max_tokens, eos_token_id=ends,
        pad_token_id=first_end if padding is None else padding,
        return_dict_in_generate=True, **more,
    )  # fmt: skip
    inputs = torch.tensor(prompts, device=base.device)

    # The library's own criterion for stop strings does not support every tokenizer.
    def stopped(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        texts = base.tokenizer.batch_decode(ids[:, inputs.shape[1] :])
        ended = [any(stop in text for stop in asked.stop) for text in texts]
        return torch.tensor(ended, device=ids.device)

    with foreign_errors(f"model {base.name!r} cannot generate", out_of_memory):
        return head.generate(
            inputs, attention_mask=torch.ones_like(inputs), generation_config=config,
            stopping_criteria=[stopped] if asked.stop else None,
        )  # fmt: skip


def _generate(
    head: Any, base: LoadedModel, prompts: Sequence[list[int]], asked: Asked
) -> list[str]:
    """Return the answers to prompts of one length."""
    sequences = _generated(head, base, prompts, asked).sequences.tolist()
    return [_text(base.tokenizer, prompt, sequence[len(prompt) :], asked.stop)
            for prompt, sequence in zip(prompts, sequences, strict=True)]  # fmt: skip


def _text(tokenizer: Any, prompt: list[int], new: list[int], stop: Sequence[str]) -> str:
    """Return the text that new tokens add to a prompt, up to the first stop text."""

    def decoded(tokens: list[int]) -> str:
        text: str = tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    # A token that is decoded alone may lose the space before it.
    before, text = decoded(prompt), decoded([*prompt, *new])
    text = text[len(before) :] if text.startswith(before) else decoded(new)
    return min((text.partition(end)[0] for end in stop), key=len, default=text)


class _Kept:
    """The finished answers, kept in a file beside ``out`` until all are there."""

    def __init__(self, out: Path, key: str) -> None:
        self.path = out.with_name(f".{out.name}.answers")
        self.answers: dict[int, str] = {}
        lines: list[str] = []
        with suppress(FileNotFoundError):
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines and lines[0] == key:
            for line in lines[1:]:
                with suppress(ValueError):  # A killed process may leave half a line.
                    row, answer = json.loads(line)
                    self.answers[int(row)] = str(answer)
            log.info("%s: going on after %d answers", out, len(self.answers))
        out.parent.mkdir(parents=True, exist_ok=True)
        written = [key, *(json.dumps(item) for item in self.answers.items())]
        write_text(self.path, "\n".join(written) + "\n")

    def add(self, answers: Mapping[int, str]) -> None:
        """Keep more answers."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(item) + "\n" for item in answers.items())
        self.answers |= answers

    def remove(self) -> None:
        """Remove the file, once ``out`` has all answers."""
        self.path.unlink(missing_ok=True)


def _lines(
    dataset: ConceptDataset,
    turns: list[list[Turn]] | None,
    answers: Sequence[str],
    right: Sequence[bool] | None,
) -> Iterator[str]:
    """Yield a line of JSON for each example that has an answer."""
    table = dataset.to_pandas()
    for row, record in enumerate(json.loads(table.to_json(orient="records"))):
        if not answers[row].strip():
            continue
        text = record.pop("text")
        told: dict[str, Any] = {"text": text}
        if turns is not None:
            contents = [(turn.role, text[turn.start : turn.stop]) for turn in turns[row]]
            told = {"messages": [*({"role": role, "content": said} for role, said in contents),
                                 {"role": "assistant", "content": answers[row]}]}  # fmt: skip
            if _is_prompt(turns):
                told = {("prompt" if role == "user" else role): said for role, said in contents}
        told["response"] = answers[row]
        if right is not None:
            told["correct"] = right[row]
        rest = {key: value for key, value in record.items() if key not in told}
        yield json.dumps(told | rest, ensure_ascii=False) + "\n"


def _is_prompt(turns: list[list[Turn]]) -> bool:
    """Whether each chat is one user turn, perhaps after a system turn."""
    return all([t.role for t in said] in (["user"], ["system", "user"]) for said in turns)


def _how_to_probe(out: Path, turns: list[list[Turn]] | None, judged: bool) -> str:
    """Return the entry of a config that reads the answers."""
    label = "correct" if judged else "label"
    if turns is None:
        form, place = "template: '{text}{response}'", "mean:response"
    elif _is_prompt(turns):
        system = "system: system, " if any(len(said) > 1 for said in turns) else ""
        form, place = f"{system}prompt: prompt, response: response", "mean:response"
    else:
        form, place = "messages: messages", "mean:assistant"
    return (f"to probe them: datasets: [{{path: {out}, {form}, label: {label}}}], with "
            f"extract: {{position: [last, '{place}']}}")  # fmt: skip


def _read_again(
    head: Any,
    base: LoadedModel,
    dataset: ConceptDataset,
    turns: list[list[Turn]] | None,
    prompts: list[list[int]],
    answers: Sequence[str],
    asked: Asked,
) -> list[str]:
    """Say whether reading the whole texts gives the same states as generating them did."""
    texts, ids = _whole_texts(base.tokenizer, dataset, turns, answers), []
    for text in texts:
        ids.append(base.tokenizer(text, add_special_tokens=turns is None)["input_ids"])
    differences, other = [], 0
    for row in [i for i, answer in enumerate(answers) if answer.strip()][:CHECKED]:
        made = _generated(head, base, [prompts[row]], asked, output_hidden_states=True)
        tokens = made.sequences[0].tolist()
        n = next((i for i, (a, b) in enumerate(zip(tokens, ids[row], strict=False)) if a != b),
                 min(len(tokens), len(ids[row])))  # fmt: skip
        if n <= len(prompts[row]):
            other += 1
            continue
        # Skip the first step, which is the prompt, and the last layer, which is after the norm.
        steps = made.hidden_states[1 : n - len(prompts[row]) + 1]
        then = torch.stack([torch.stack([layer[0, -1] for layer in step[:-1]]) for step in steps],
                           dim=1).float().cpu().numpy() if steps else None  # fmt: skip
        if then is None:
            continue
        with Capture(base, "residual") as capture:
            now = read_every_token(capture, tokens[:n], base.hidden_size, lambda _, states: states)
        now = now[: len(then), len(prompts[row]) : len(prompts[row]) + then.shape[1]]
        size = np.linalg.norm(now, axis=2)
        differences.append(float((np.linalg.norm(then - now, axis=2) / size).max()))
    lines = []
    if differences:
        lines.append(
            f"states of {len(differences)} answers, during generation and when their texts are "
            f"read again, differ by at most {max(differences):.1e}"
        )
    if other:
        lines.append(
            f"{other} of the {CHECKED} answers that were checked become other tokens when their "
            "text is read again, so its states are not those of the generation"
        )
    return lines


def _whole_texts(
    tokenizer: Any,
    dataset: ConceptDataset,
    turns: list[list[Turn]] | None,
    answers: Sequence[str],
) -> list[str]:
    """Return the texts with their answers, as the model reads them. [n]"""
    if turns is None:
        return [text + answer for text, answer in zip(dataset.texts, answers, strict=True)]
    texts = [text + answer for text, answer in zip(dataset.texts, answers, strict=True)]
    said = [[*own, Turn("assistant", len(text), len(text) + len(answer))]
            for own, text, answer in zip(turns, dataset.texts, answers, strict=True)]  # fmt: skip
    return [chat.text for chat in rendered(tokenizer, texts, said, dataset.chat, dataset.name)]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".!")


def _is_exactly(answer: str, expected: str, _: Sequence[str]) -> bool:
    return _plain(answer) == _plain(expected)


def _has_number(answer: str, expected: str, _: Sequence[str]) -> bool:
    """Whether the last number of an answer is the expected one."""
    return (number := _number(answer)) is not None and number == _number(expected)


def _number(text: str) -> float | None:
    """Return the last number in a text."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def _says_label(answer: str, expected: str, labels: Sequence[str]) -> bool:
    """Whether the first label that occurs in an answer is the expected one."""
    names = "|".join(re.escape(label) for label in labels)
    first = re.search(rf"(?<!\w)(?:{names})(?!\w)", answer, re.IGNORECASE)
    return first is not None and first[0].casefold() == expected.casefold()


_JUDGES: dict[str, Callable[[str, str, Sequence[str]], bool]] = {
    "exact": _is_exactly, "number": _has_number, "label": _says_label
}  # fmt: skip
