"""What the XOR experiment says is so: recomputed another way, and what its figures show."""

from __future__ import annotations

from dataclasses import fields
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.optimize import linprog

from llmprobe.results.folder import read_results
from llmprobe.results.results import Results
from llmprobe.runs.report import terminal_text
from llmprobe.sanity.xor import (
    LEARNED,
    OUTCOMES,
    POINTS,
    SAME,
    Xor,
    best_line,
    formula,
    regress,
    rescaled,
    sample,
    separable,
    train_all,
    xor_findings,
    xor_text,
)
from llmprobe.sanity.xor_figures import FIELD, frame_steps, xor_figures
from llmprobe.sanity.xor_network import (
    CORNERS,
    SEEDS,
    STEP_SIZE,
    STEPS,
    XOR,
    hidden,
    network,
    predict,
    starts,
)

BY_HAND = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
AXIS = np.linspace(0, 1, 101)
SQUARE = np.array(list(product(AXIS, AXIS)))


@pytest.fixture(scope="module")
def run(done: Path) -> Results:
    return read_results(done / "xor")


@pytest.fixture(scope="module")
def found() -> Xor:
    return train_all()


@pytest.fixture(scope="module")
def drawn(run: Results) -> dict[str, Figure]:
    figures = {name: figure for name, (figure, _, _) in xor_figures(run).items()}
    for figure in figures.values():
        FigureCanvasAgg(figure).draw()
    return figures


def is_separable(points: np.ndarray, labels: np.ndarray) -> bool:
    """By a linear program: is there a line with margin on the right side of every point?"""
    sign = np.where(labels == 1, -1, 1)[:, None]
    rows = sign * np.column_stack([points, np.ones(len(points))])
    program = linprog(np.zeros(3), rows, -np.ones(len(points)), bounds=(None, None))
    return bool(program.status == 0)


def trained_by_torch(seed: int, relu: bool = True) -> torch.nn.Sequential:
    """One network alone, by autograd and ``torch.optim.SGD``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = network().double()
    if not relu:
        module[1] = torch.nn.Identity()
    optimizer = torch.optim.SGD(module.parameters(), lr=STEP_SIZE)
    inputs, target = torch.from_numpy(CORNERS), torch.from_numpy(XOR).double()
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(module(inputs)[:, 0], target).backward()
        optimizer.step()
    return module


def test_linear_regression_predicts_a_half_at_each_corner() -> None:
    np.testing.assert_allclose(regress(CORNERS), 0.5, atol=1e-6)


def test_the_shown_network_is_the_absolute_difference_on_the_whole_square(found: Xor) -> None:
    module = network(found.trained[found.seed])
    with torch.no_grad():
        field = module(torch.from_numpy(SQUARE).float())[:, 0].numpy()
    error = np.abs(field - np.abs(SQUARE[:, 0] - SQUARE[:, 1])).max()
    assert error < 1e-2
    assert found.field_error[found.seed] == pytest.approx(error, abs=1e-5)


def test_so_is_every_network_that_learns_and_no_other(found: Xor) -> None:
    assert ((found.field_error < 1e-2) == found.learned).all()


def test_without_the_relu_every_network_ends_at_the_best_linear_one(found: Xor) -> None:
    best, squares, *_ = np.linalg.lstsq(CORNERS, XOR, rcond=None)
    np.testing.assert_allclose(best, 1 / 3)
    predictions = predict(CORNERS, found.linear, relu=False)
    np.testing.assert_allclose(predictions, np.tile(CORNERS @ best, (SEEDS, 1)), atol=1e-6)
    np.testing.assert_allclose(((predictions - XOR) ** 2).mean(axis=1), squares[0] / 4, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("relu", [True, False])
def test_all_seeds_at_once_train_as_each_alone(found: Xor, seed: int, relu: bool) -> None:
    alone = trained_by_torch(seed, relu)
    at_once = (found.trained if relu else found.linear)[seed]
    np.testing.assert_allclose(alone[0].weight.detach(), at_once[:2], atol=1e-9)
    np.testing.assert_allclose(alone[2].weight.detach(), at_once[2:], atol=1e-9)


def test_a_seed_is_the_one_of_torch_and_leaves_the_users_alone() -> None:
    torch.manual_seed(7)
    seventh = network()
    before = torch.get_rng_state()
    weights = starts()
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(weights[7, :2], seventh[0].weight.detach())
    np.testing.assert_array_equal(weights[7, 2:], seventh[2].weight.detach())


def test_the_first_seed_that_learns_is_shown(found: Xor) -> None:
    losses = ((predict(CORNERS, found.trained) - XOR) ** 2).mean(axis=1)
    assert losses[found.seed] < LEARNED
    assert (losses[: found.seed] > LEARNED).all()
    np.testing.assert_array_equal(found.path[-1], found.trained[found.seed])


def test_every_end_is_what_its_name_says(found: Xor) -> None:
    ends = {
        "learned": [[0, 1, 1, 0]],
        "one corner": [[0, 1, 0, 0], [0, 0, 1, 0]],
        "linear": [[0, 1 / 3, 1 / 3, 2 / 3]],
        "silent": [[0, 0, 0, 0]],
    }
    assert set(found.outcomes) == set(OUTCOMES)
    for outcome, outputs in zip(found.outcomes, predict(CORNERS, found.trained), strict=True):
        assert any(np.allclose(outputs, end, atol=SAME) for end in ends[outcome])
    assert (found.dead[found.outcomes == "silent"] == 2).all()
    assert (found.dead[found.learned] == 0).all()


def test_hidden_states_become_separable_in_the_networks_that_learn(found: Xor) -> None:
    for weights in (found.start, found.trained):
        expected = [is_separable(plane, XOR) for plane in hidden(CORNERS, weights)]
        assert separable(weights).tolist() == expected
    assert expected == found.learned.tolist()


def test_the_lines_have_the_corners_right_that_they_are_said_to_have(found: Xor) -> None:
    rights = []
    for plane in (CORNERS, *hidden(CORNERS, found.path[[0, -1]])):
        line, right = best_line(plane)
        assert ((plane @ line[:2] + line[2] > 0) == XOR).sum() == right
        rights.append(right)
    assert rights == [3, 3, 4]


def test_no_line_is_better_than_the_best_line() -> None:
    rng = np.random.default_rng(0)
    best = []
    for points in rng.normal(size=(20, 4, 2)):
        # Any three points that are not on one line can be labelled in every way.
        best.append(4 if is_separable(points, XOR) else 3)
        assert best_line(points)[1] == best[-1]
    assert set(best) == {3, 4}


def test_only_the_trained_hidden_layer_and_output_can_be_read(run: Results) -> None:
    table = run.table.pivot(index="model", columns="layer", values="accuracy")
    assert tuple(run.table["layer_name"].unique()) == POINTS
    assert (table.loc["trained", 2:] == 1).all()
    assert (table[[0, 1]] < 0.55).all(axis=None)
    assert (table.loc["untrained", 2:] < 0.8).all()


def test_training_again_gives_the_same_networks(found: Xor) -> None:
    again = train_all.__wrapped__()
    for field in fields(Xor):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(found, field.name))


def test_weights_are_written_as_the_function_that_they_are() -> None:
    weights = np.array([[-0.5, 0.25], [2.0, -3.0], [4.0, 0.5]])
    assert formula(weights) == "4.00·ReLU(−0.50x + 0.25y) + 0.50·ReLU(2.00x − 3.00y)"
    assert rescaled(weights) == "1.00·ReLU(x − 1.50y) + 1.00·ReLU(y − 2.00x)"


def test_the_text_has_the_three_models_side_by_side(run: Results) -> None:
    lines = xor_text(run).splitlines()
    assert rescaled(BY_HAND) == "1.00·ReLU(x − 1.00y) + 1.00·ReLU(y − 1.00x)"
    assert f"rescaled   {rescaled(BY_HAND)}" in lines
    assert "linear regression     0.50     0.50     0.50     0.50                0.25" in lines
    assert "without the ReLU      0.00     0.33     0.33     0.67                0.33" in lines
    assert "with the ReLU         0.00     1.00     1.00     0.00                0.00" in lines


@pytest.mark.parametrize("unicode", [True, False])
def test_the_text_fits_the_terminal(done: Path, unicode: bool) -> None:
    text = terminal_text(done / "xor", unicode=unicode).plain
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii() is not unicode


def test_findings_state_the_counted_numbers(run: Results, found: Xor) -> None:
    said = " ".join(xor_findings(run))
    losses = ((predict(CORNERS, found.trained) - XOR) ** 2).mean(axis=1)
    assert f"{(losses < LEARNED).sum()} of 100 seeds learn" in said
    assert f"Of the others, {(abs(losses - 1 / 4) < 1e-3).sum()} answer" in said
    assert f"{(abs(losses - 1 / 3) < 1e-3).sum()} end as (x + y)/3" in said
    assert f"{(abs(losses - 1 / 2) < 1e-3).sum()} answer 0 at every corner" in said
    dead = (hidden(CORNERS, found.trained).max(axis=1) == 0).any(axis=1) & (losses > LEARNED)
    assert f"{dead.sum()} of these {(losses > LEARNED).sum()} have a dead unit" in said
    assert "100 of 100 networks end as (x + y)/3" in said


def test_fields_show_what_the_models_predict(drawn: dict[str, Figure]) -> None:
    regression, linear, relu = (ax.images[0].get_array() for ax in drawn["fields"].axes[:3])
    np.testing.assert_allclose(regression, 0.5, atol=1e-6)
    np.testing.assert_allclose(linear, (FIELD + FIELD[:, None]) / 3, atol=1e-6)
    np.testing.assert_allclose(relu, np.abs(FIELD - FIELD[:, None]), atol=1e-2)
    notes = [[note.get_text() for note in ax.texts] for ax in drawn["fields"].axes[:3]]
    assert notes[1:] == [["0.00", "0.33", "0.33", "0.67"], ["0.00", "1.00", "1.00", "0.00"]]
    assert {image.get_clim() for ax in drawn["fields"].axes[:3] for image in ax.images} == {
        (-0.5, 1.5)
    }


def test_hidden_planes_show_corners_sample_and_line(found: Xor, drawn: dict[str, Figure]) -> None:
    points, labels = sample()
    order = np.argsort(labels, kind="stable")
    for ax, weights in zip(drawn["hidden_plane"].axes, found.path[[0, -1]], strict=True):
        *markers, drawn_line = ax.lines
        places = [marker.get_xydata() for marker in markers]
        corners = [place[0] for place in places if len(place) == 1]
        around = np.concatenate([place for place in places if len(place) > 1])
        line, _ = best_line(hidden(CORNERS, weights))
        np.testing.assert_array_equal(corners, hidden(CORNERS, weights))
        np.testing.assert_array_equal(around, hidden(points[order], weights))
        for at in (drawn_line.get_xy1(), drawn_line.get_xy2()):
            assert abs(line[:2] @ np.asarray(at) + line[2]) < 1e-9
    before, after = ([note.get_text() for note in ax.texts] for ax in drawn["hidden_plane"].axes)
    assert before == ["(0, 0)", "(1, 0)", "(0, 1)", "(1, 1)"]
    assert after == ["(0, 0) and (1, 1)", "(1, 0)", "(0, 1)"]


def test_frames_lie_on_the_loss_curve(found: Xor, drawn: dict[str, Figure]) -> None:
    *frames, curve = drawn["training"].axes
    steps, losses = frame_steps(found), ((predict(CORNERS, found.path) - XOR) ** 2).mean(axis=1)
    for ax, step, weights in zip(frames, steps, found.path[steps], strict=True):
        assert ax.get_title(loc="left") == f"step {step:,}"
        corners = [line.get_xydata()[0] for line in ax.lines[1:]]
        np.testing.assert_array_equal(corners, hidden(CORNERS, weights))
    np.testing.assert_array_equal(curve.lines[0].get_ydata(), losses)
    np.testing.assert_array_equal(
        curve.lines[1].get_xydata(), np.column_stack([steps, losses[steps]])
    )
    assert losses[steps[-1]] < LEARNED < losses[steps[-1] - 1]


def test_seeds_are_drawn_in_the_order_of_their_loss(found: Xor, drawn: dict[str, Figure]) -> None:
    (ax,) = drawn["seeds"].axes
    learned, others = ax.lines
    assert len(learned.get_xdata()) == found.learned.sum()
    together = np.concatenate([learned.get_ydata(), others.get_ydata()])
    np.testing.assert_array_equal(together, np.sort(found.losses))
    for note, outcome in zip(ax.texts, OUTCOMES, strict=True):
        assert note.get_text().startswith(f"{(found.outcomes == outcome).sum()} ")


def test_no_two_notes_of_a_panel_overlap(drawn: dict[str, Figure]) -> None:
    panels = [ax for figure in drawn.values() for ax in figure.axes if len(ax.texts) > 1]
    assert len(panels) == 6
    for ax in panels:
        boxes = [note.get_window_extent() for note in ax.texts]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_figures_have_a_caption_and_words_for_who_cannot_see_them(run: Results) -> None:
    figures = xor_figures(run)
    assert list(figures) == ["fields", "hidden_plane", "training", "seeds"]
    for _, caption, words in figures.values():
        assert caption.endswith(".")
        assert words.endswith(".")
        assert caption != words
