"""Probes that score every token of a text and pool the scores: max, soft-max and attention.

The score of a token is linear in its state. The score of a text is the largest of them (``max``),
or their weighted mean. Its weights are the soft-max of the scores themselves over a temperature
(``softmax``), or that of a second linear function, the query (``attention``; Shabalin & Belrose
2025, "Attention probes", EleutherAI, with one head and no position bias). McKenzie et al. (2025,
"Detecting high-stakes interactions with activation probes", section 3) and Kramár et al. (2026,
"Building production-ready probes for Gemini") compare them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from llmprobe.probing.design import CONSTANT
from llmprobe.probing.layer import LayerFit, in_units_of_labels, predictions
from llmprobe.probing.losses import Loss
from llmprobe.probing.pooling import Pooling
from llmprobe.probing.search import ProbingTask
from llmprobe.probing.tasks import ProbingTasks, intercept_loss
from llmprobe.results.saved_probe import SavedProbe

STEPS = 200
"""Steps of gradient descent (Adam, with all texts in each step, and a rate that falls to 0)."""
SEARCH_STEPS = 100
"""Steps of fits that only tell penalties apart."""
RATE = 0.3
"""The rate of the first step, in standardised features, times the root of their number."""
RATE_OF_INTERCEPT = 0.05
"""The rate of the first step of intercepts."""
PENALTIES = (1e3, 1e2, 1e1, 1e0)
"""The grid of ``l2: auto`` for these probes."""
MOST_TOKENS = 2**14
"""The most tokens whose scores are in memory at a time, unless a single text has more."""
INNER_FOLDS = 2
"""Inner folds that are scored to choose a penalty."""


@dataclass(frozen=True)
class Chunk:
    """Some texts of like length, padded to the longest of them."""

    texts: Tensor
    """Numbers of the texts. [m]"""
    X: Tensor
    """The states of their tokens, zero for padding. [m · longest, d]"""
    lengths: Tensor
    """The number of tokens of each text. [m]"""
    outside: Tensor
    """-inf for padding, 0 for tokens. [m, longest]"""

    def by_text(self, directions: Tensor) -> Tensor:
        """Return the products of each state with k directions [k, d]. -> [k, m, longest]"""
        return (directions @ self.X.T).view(len(directions), *self.outside.shape)


class Tokens:
    """The states of the tokens of n texts, of any lengths.

    Parameters
    ----------
    X
        The states, text by text. [tokens, d]
    n_tokens
        The number of tokens of each text, one or more. [n]
    """

    def __init__(
        self, X: np.ndarray, n_tokens: np.ndarray, device: torch.device | str = "cpu"
    ) -> None:
        n_tokens = np.asarray(n_tokens)
        if X.ndim != 2 or n_tokens.sum() != len(X) or n_tokens.min(initial=1) < 1:
            raise ValueError(f"{X.shape} states for texts of {n_tokens.sum()} tokens, one or more")
        self.device = torch.device(device)
        self.n, self.d = len(n_tokens), X.shape[1]
        ends = n_tokens.cumsum()
        self.chunks = []
        for texts in _of_like_length(n_tokens):
            longest = int(n_tokens[texts].max())
            is_token = np.arange(longest) < n_tokens[texts, None]
            padded = np.zeros((len(texts), longest, self.d), dtype=np.float32)
            for row, text in enumerate(texts):
                padded[row, : n_tokens[text]] = X[ends[text] - n_tokens[text] : ends[text]]
            outside = np.where(is_token, 0, -np.inf).astype(np.float32)
            arrays = texts, padded.reshape(-1, self.d), n_tokens[texts], outside
            self.chunks.append(Chunk(*(torch.as_tensor(x, device=self.device) for x in arrays)))

    def moments(self, train: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of the tokens of some texts.

        A feature that does not vary has a standard deviation of 1. [K, n] bool -> two of [K, d]
        """
        sums = torch.zeros(self.n, 2 * self.d + 1, dtype=torch.float64, device=self.device)
        for chunk in self.chunks:
            of_each = chunk.X.view(*chunk.outside.shape, self.d)
            for row, states in enumerate(of_each.double()):  # One text at a time bounds the memory.
                sums[chunk.texts[row], : self.d] = states.sum(dim=0)
                sums[chunk.texts[row], self.d : -1] = states.square().sum(dim=0)
            sums[chunk.texts, -1] = chunk.lengths.double()
        of_train = train.double() @ sums
        of_token = of_train[:, :-1] / of_train[:, -1:]
        mean, square = of_token[:, : self.d], of_token[:, self.d :]
        sd = (square - mean.square()).clamp_min(0).sqrt()
        return mean, torch.where(sd > CONSTANT * square.sqrt(), sd, 1.0)


def _of_like_length(n_tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers of texts to pad together, each to at most a third more tokens."""
    order = np.argsort(n_tokens, kind="stable")
    start = 0
    while start < len(order):
        lengths = n_tokens[order[start:]]
        fits = (lengths * np.arange(1, len(lengths) + 1) <= MOST_TOKENS) & (
            3 * lengths <= 4 * lengths[0]
        )
        stop = start + max(int(fits.sum()), 1)
        yield order[start:stop]
        start = stop


@dataclass(frozen=True)
class TokenProbes:
    """K probes over tokens, in raw feature space."""

    pooling: Pooling
    """How scores of tokens become one of a text."""
    coef: Tensor
    """Directions of the score of a token. [K, C, d]"""
    intercept: Tensor
    """What is added to the score of a text. [K, C]"""
    query: Tensor | None = None
    """Directions of the weight of a token, for attention only. [K, d]"""

    def logits(self, tokens: Tokens) -> Tensor:
        """Return the score of each text. -> [K, C, n]"""
        logits = self.coef.new_empty(*self.intercept.shape, tokens.n)
        with torch.no_grad():
            for chunk in tokens.chunks:
                logits[:, :, chunk.texts] = self.of_chunk(chunk)
        return logits

    def of_chunk(self, chunk: Chunk) -> Tensor:
        """Return the score of each text of a chunk. -> [K, C, m]"""
        K, C, d = self.coef.shape
        scores = chunk.by_text(self.coef.reshape(K * C, d)).view(K, C, *chunk.outside.shape)
        if self.pooling.kind == "max":
            of_texts = (scores + chunk.outside).amax(dim=-1)
        else:
            if self.query is None:
                weights = scores / self.pooling.number
            else:
                weights = chunk.by_text(self.query)[:, None]
            of_texts = ((weights + chunk.outside).softmax(dim=-1) * scores).sum(dim=-1)
        pooled: Tensor = of_texts + self.intercept[..., None]
        return pooled


def logits_of_texts(
    probe: SavedProbe, layer: int, X: np.ndarray, n_tokens: np.ndarray
) -> np.ndarray:
    """Return the logits of texts by a saved probe that pools scores, from their tokens' states.

    Parameters
    ----------
    X
        The states at ``layer``, text by text. [tokens, d]
    n_tokens
        The number of tokens of each text. [n]

    Returns
    -------
    np.ndarray
        As ``SavedProbe.decision_function`` returns them: [n], or [n, C] of C > 2 classes.
    """
    pooling = Pooling.of(str(probe.facts["position"]))
    assert pooling is not None
    coef, intercept, *query = (
        torch.as_tensor(by_layer[layer], dtype=torch.float32)[None]
        for by_layer in (probe.coef, probe.intercept, probe.query)
        if by_layer
    )
    probes = TokenProbes(pooling, coef, intercept, query[0] if query else None)
    logits: np.ndarray = probes.logits(Tokens(X, n_tokens))[0].double().numpy()
    return logits[0] if len(logits) == 1 else logits.T


def fit_token_probes(
    tokens: Tokens,
    pooling: Pooling,
    loss: Loss,
    targets: Tensor,
    train: Tensor,
    l2: Tensor,
    steps: int = STEPS,
) -> TokenProbes:
    """Minimise, for each of K probes, the loss of its texts + l2 / 2 ‖directions‖².

    Directions, and the query, are penalised in units of the standard deviations of the training
    tokens. Attention and max have several local minima. All fits start at zero, where each token
    counts the same, and the descent is the same each time.

    Parameters
    ----------
    targets
        Labels of the texts, as the loss takes them. [C, n]
    train
        The texts of each probe. [K, n] bool
    l2
        The penalties. [K]
    """
    K, C, d = len(train), len(targets), tokens.d
    mean, sd = (x.float()[:, None] for x in tokens.moments(train))
    share = train.float() / train.sum(dim=1, keepdim=True)
    penalty = (l2.float() / train.sum(dim=1))[:, None, None]
    start = loss.intercept((share @ targets.T)[..., None])[..., 0]
    coef = torch.zeros(K, C, d, device=tokens.device, requires_grad=True)
    query = torch.zeros(K, 1, d, device=tokens.device, requires_grad=True)
    intercept = start.clone().requires_grad_()
    directions = [coef, query] if pooling.kind == "attention" else [coef]

    def raw() -> TokenProbes:
        weights = coef / sd
        shift = intercept - (weights * mean).sum(dim=2)
        of_query = (query / sd)[:, 0] if len(directions) > 1 else None
        return TokenProbes(pooling, weights, shift, of_query)

    optimiser = torch.optim.Adam(
        [{"params": directions, "lr": RATE / d**0.5},
         {"params": [intercept], "lr": RATE_OF_INTERCEPT}]
    )  # fmt: skip
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        for chunk in tokens.chunks:
            logits = raw().of_chunk(chunk)
            means = loss.means(logits.detach())
            slope = loss.residual(means, targets[None, :, chunk.texts])
            logits.backward(slope * share[:, None, chunk.texts])  # type: ignore[no-untyped-call]
        for weights in directions:
            assert weights.grad is not None
            weights.grad += penalty * weights.detach()
        optimiser.step()
        rate.step()
    fitted = raw()
    return replace(
        fitted,
        coef=fitted.coef.detach(),
        intercept=fitted.intercept.detach(),
        query=None if fitted.query is None else fitted.query.detach(),
    )


def probe_tokens(
    X: np.ndarray,
    tasks: ProbingTasks,
    device: torch.device | str = "cpu",
    *,
    n_tokens: np.ndarray,
    pooling: Pooling,
) -> LayerFit:
    """Fit probes over tokens on the states of a layer, X [tokens, d], text by text.

    The penalty of each fold is chosen inside its training set. What would need refits on other
    labels or on parts of the texts is NaN or empty. Places beside a probe are NaN too, since the
    probe is not one direction.
    """
    tokens, loss, scored = Tokens(X, n_tokens, device), tasks.loss, tasks.scored
    train = tasks.train
    l2, kept_skill = np.full(tasks.n_folds, tasks.penalties[0]), np.nan
    if tasks.inner:
        l2, _ = _penalties(tokens, pooling, tasks, tasks.inner)
    if tasks.calibrated is not None:
        own = _some_folds(tasks.calibrated)
        kept_l2, lost = _penalties(tokens, pooling, tasks, [own])
        kept_skill = float(1 - lost[0] / intercept_loss(own, loss))
        train, l2 = np.concatenate([train, tasks.fitted[None]]), np.append(l2, kept_l2)
    elif scored.all():  # The probe that is kept is fitted on all texts.
        train = np.concatenate([train, tasks.fitted[None]])
        l2 = np.append(l2, np.exp(np.log(l2).mean()))
    targets, masks, penalties = _on(tokens.device, tasks.targets, train, l2)
    probes = fit_token_probes(tokens, pooling, loss, targets, masks, penalties)
    fold_of = torch.as_tensor(tasks.fold_of[0], device=tokens.device).clamp_min(0)
    every = probes.logits(tokens)
    held_out = every.gather(0, fold_of.expand(1, every.shape[1], -1))[0]
    rows = torch.as_tensor(scored, device=tokens.device)
    total = float(loss.value(held_out[None].double(), targets[None].double())[0, 0, rows].sum())
    coef, intercept = probes.coef.double().cpu().numpy(), probes.intercept.double().cpu().numpy()
    query = None if probes.query is None else probes.query.double().cpu().numpy()
    kept = [in_units_of_labels(coef[k].T, intercept[k], tasks) for k in (-1, 0)]
    return LayerFit(
        predicted=predictions(held_out, tasks)[None],
        l2=l2[: tasks.n_folds],
        kept_l2=float(l2[-1]),
        unconverged=0,
        coef=kept[0][0],
        intercept=kept[0][1],
        fold0_coef=kept[1][0],
        fold0_intercept=kept[1][1],
        probe_plane=np.full((int(scored.sum()), 2), np.nan),
        skill=1 - total / tasks.intercept_loss[:1],
        control_score=np.nan,
        beside_control=np.nan,
        code_lengths=np.empty(0),
        learning_curve=np.empty(0),
        query=None if query is None else query[-1],
        fold0_query=None if query is None else query[0],
        kept_skill=kept_skill,
        aside=None if tasks.aside is None else predictions(every[-1], tasks, tasks.aside),
    )


def _penalties(
    tokens: Tokens, pooling: Pooling, tasks: ProbingTasks, choices: Sequence[ProbingTask]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the penalty of each choice with the least held-out loss, and that loss.

    -> two arrays [choices]
    """
    grid = PENALTIES if tasks.inner else tasks.penalties
    some = [_some_folds(task) for task in choices]
    sizes = [len(task.train) for task in some]
    train = np.tile(np.concatenate([task.train for task in some]), (len(grid), 1))
    l2 = np.repeat(grid, sum(sizes))
    targets, masks, penalties = _on(tokens.device, tasks.targets, train, l2)
    probes = fit_token_probes(tokens, pooling, tasks.loss, targets, masks, penalties, SEARCH_STEPS)
    logits = probes.logits(tokens)
    losses = tasks.loss.value(logits.double(), targets[None].double())[:, 0]
    by_penalty = losses.reshape(len(grid), sum(sizes), -1).cpu().numpy()
    ends = np.cumsum(sizes)
    least = []
    for task, end in zip(some, ends, strict=True):
        rows = np.flatnonzero(task.scored_by >= 0)
        of_rows = by_penalty[:, end - len(task.train) + task.scored_by[rows], rows]
        total = of_rows.sum(axis=1)
        least.append((grid[int(total.argmin())], total.min()))
    chosen, lost = np.array(least).T
    return chosen, lost


def _some_folds(task: ProbingTask) -> ProbingTask:
    """Return the choice of a penalty in its first inner folds only."""
    scored_by = np.where(task.scored_by < INNER_FOLDS, task.scored_by, -1)
    return replace(task, train=task.train[:INNER_FOLDS], scored_by=scored_by)


def _on(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    return [torch.as_tensor(array, device=device) for array in arrays]
