"""Probing of any torch network, also during its training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
from torch import Tensor, nn

from llmprobe.api.states import probe_config
from llmprobe.config.load import validated
from llmprobe.config.schema import LinearConfig
from llmprobe.datasets.groups import units
from llmprobe.extraction.network import NetworkStates
from llmprobe.ground.errors import UserError
from llmprobe.probing import protocol
from llmprobe.probing.linearity import linearity_of_layers, with_linearity
from llmprobe.probing.tasks import build_tasks
from llmprobe.results.results import Results


def probe_network(
    module: nn.Module,
    inputs: Tensor | np.ndarray,
    labels: Sequence[Any] | np.ndarray,
    layers: str | Sequence[str] = "all",
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    test: Sequence[bool] | np.ndarray | None = None,
    model: str = "network",
    dataset: str = "inputs",
    batch_size: int = 256,
    linear: bool | Mapping[str, Any] = False,
    progress: bool = True,
    **options: Any,
) -> Results:
    """Probe any torch network at any of its layers: ``probe_network(convnet, images, digits)``.

    The results are like those of ``probe_layers``. ``layer`` is the place of a layer in forward
    order, and the table has its name in the column ``layer_name``.

    Parameters
    ----------
    inputs
        The inputs of the network, a row for each example. [n, …]
    labels
        The class of each example. [n]
    layers
        "all": the input and every submodule without submodules of its own, in forward order (a
        second call is ``name#2``). "operations": functional ones such as ``relu`` too, by torch.fx.
        Or a list of names of submodules or operations. The first two leave out a layer whose
        features equal those of the one before (flatten, dropout). Features are what the layer
        returns for an example, flattened.
    groups
        The group of each row; rows of one group never stand on both sides of a split. [n]
    test
        True for the examples to score, by probes that are fitted on the others; by default all
        are scored, in folds. [n] bool
    model, dataset
        The names of the network and of the examples in the tables.
    batch_size
        The number of examples in a forward pass.
    linear
        Whether to also measure how much more a curved probe reads (``linearity_gap`` in the
        tables); or keys of a config's ``linear`` section.
    **options
        Keys of a config's ``probe`` section.

    Raises
    ------
    UserError
        There is no such layer, the network fails on the inputs, a feature is not finite, shapes
        differ, or there are too few examples for the folds.
    """
    config = probe_config(options, "probe_network")
    states = NetworkStates(module, inputs, layers, batch_size)
    labels = protocol.one_for_each_row("labels", labels, len(states.inputs))
    results = protocol.probe_states(
        states,
        labels,
        groups,
        test=test,
        config=config,
        names={"model": model, "dataset": dataset, "site": "", "position": ""},
        origin={},
        progress=progress,
    )
    if linear is not False:
        asked = validated(LinearConfig, {} if linear is True else dict(linear), "linear")
        unit_of = units(None if groups is None else np.asarray(groups), None)
        fold_config = config.alone(repeats=1, l2="auto")
        scored = None if test is None else np.asarray(test)
        rows = linearity_of_layers(
            states, build_tasks(labels, unit_of, fold_config, dataset, scored), unit_of,
            int(results.summary["peak_layer"].iloc[0]), asked,
            seed=config.seed, label=f"{dataset} in {model}", progress=progress,
        )  # fmt: skip
        results = with_linearity(results, rows)
    results.table["layer_name"] = [states.names[layer] for layer in results.table["layer"]]
    results.summary["parameters"] = sum(weights.numel() for weights in module.parameters())
    return results


class ProbeCallback:
    """A callback that probes a network during its training, called with the number of each step::

        callback = llmprobe.ProbeCallback(network, images, labels, steps=[0, 100, 1000])
        for step, batch in enumerate(batches):
            callback(step)
            ...
        callback.results.table  # model: "step 0", "step 100", "step 1000"

    Parameters
    ----------
    steps
        The steps at which to probe.
    module, inputs, labels, **options
        Arguments of ``probe_network``.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor | np.ndarray,
        labels: Sequence[Any] | np.ndarray,
        steps: Iterable[int],
        **options: Any,
    ) -> None:
        try:
            self.steps = frozenset(steps)
        except TypeError:
            raise UserError(f"steps: {steps!r}, expected the numbers of steps, [0, 100]") from None
        # Check the options before the training, and fix the layers for all steps.
        arguments = signature(probe_network).parameters.keys() - {"model"}
        section = {key: value for key, value in options.items() if key not in arguments}
        probe_config(section, "ProbeCallback")
        layers, batch_size = options.get("layers", "all"), options.get("batch_size", 256)
        names = NetworkStates(module, inputs, layers, batch_size).names
        self._probe = partial(probe_network, module, inputs, labels, **options | {"layers": names})
        self._results: list[Results] = []

    def __call__(self, step: int) -> None:
        if step in self.steps:
            self._results.append(self._probe(model=f"step {step}"))

    @property
    def results(self) -> Results:
        """Return the results of the steps so far.

        Raises
        ------
        UserError
            None of the steps has come yet.
        """
        if not self._results:
            raise UserError(f"none of the steps {sorted(self.steps)} has come yet")
        return Results.concatenate(self._results)
