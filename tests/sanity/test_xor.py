"""What the XOR experiment says is so: recomputed another way, and what its figures show."""

from __future__ import annotations

from dataclasses import fields
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.optimize import linprog

from llmprobe.ground.errors import UserError
from llmprobe.results.results import Results
from llmprobe.sanity.xor import LEARNED, OUTCOMES, SAME, Xor, best_line, formula, rescaled, run_xor
from llmprobe.sanity.xor_figures import FIELD, xor_figures
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
def run() -> tuple[Results, Xor]:
    return run_xor(progress=False)


@pytest.fixture(scope="module")
def found(run: tuple[Results, Xor]) -> Xor:
    return run[1]


@pytest.fixture(scope="module")
def drawn(found: Xor) -> dict[str, Figure]:
    figures = {name: figure for name, (figure, _, _) in xor_figures(found).items()}
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


def test_linear_regression_predicts_a_half_at_each_corner(found: Xor) -> None:
    np.testing.assert_allclose(found.regress(CORNERS), 0.5, atol=1e-6)


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
    assert found.loss_curve[-1] == losses[found.seed]


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
    for when, weights in enumerate((found.start, found.trained)):
        expected = [is_separable(plane, XOR) for plane in hidden(CORNERS, weights)]
        assert found.separable[when].tolist() == expected
    assert (found.separable[1] == found.learned).all()


def test_the_lines_have_the_corners_right_that_they_are_said_to_have(found: Xor) -> None:
    shown = found.start[found.seed], found.trained[found.seed]
    planes = [CORNERS, *(hidden(CORNERS, weights) for weights in shown)]
    for plane, line, right in zip(planes, found.lines, found.right, strict=True):
        assert ((plane @ line[:2] + line[2] > 0) == XOR).sum() == right
    assert found.right.tolist() == [3, 3, 4]


def test_no_line_is_better_than_the_best_line() -> None:
    rng = np.random.default_rng(0)
    best = []
    for points in rng.normal(size=(20, 4, 2)):
        # Any three points that are not on one line can be labelled in every way.
        best.append(4 if is_separable(points, XOR) else 3)
        assert best_line(points)[1] == best[-1]
    assert set(best) == {3, 4}


def test_only_the_trained_hidden_layer_and_output_can_be_read(
    run: tuple[Results, Xor],
) -> None:
    results, found = run
    accuracy = results.table.set_index(["model", "layer_name"])["accuracy"]
    names = ["input", "hidden_preact", "hidden", "output"]
    assert found.layer_names.tolist() == names
    for model, row in zip(("untrained", "trained"), found.accuracy, strict=True):
        assert row.tolist() == [accuracy[model, name] for name in names]
    assert (found.accuracy[1, 2:] == 1).all()
    assert (found.accuracy[:, :2] < 0.55).all()
    assert (found.accuracy[0, 2:] < 0.8).all()


def test_two_runs_are_equal(run: tuple[Results, Xor]) -> None:
    results, again = run_xor(progress=False)
    for field in fields(Xor):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(run[1], field.name))
    pd.testing.assert_frame_equal(results.table, run[0].table)
    pd.testing.assert_frame_equal(results.predictions, run[0].predictions)


def test_what_is_saved_is_read_again(found: Xor, tmp_path: Path) -> None:
    for name in ("one", "two"):
        found.save(tmp_path / name)
    again = Xor.load(tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    for field in fields(Xor):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(found, field.name))
    assert again.text() == found.text()
    assert again.findings == found.findings


@pytest.mark.parametrize("content", [None, b"", b"not an archive", "other arrays"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "xor.npz"
    if isinstance(content, str):
        np.savez(path, start=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"xor\.npz: (no such file|not what)"):
        Xor.load(path)


def test_weights_are_written_as_the_function_that_they_are() -> None:
    weights = np.array([[-0.5, 0.25], [2.0, -3.0], [4.0, 0.5]])
    assert formula(weights) == "4.00·ReLU(−0.50x + 0.25y) + 0.50·ReLU(2.00x − 3.00y)"
    assert rescaled(weights) == "1.00·ReLU(x − 1.50y) + 1.00·ReLU(y − 2.00x)"


def test_the_text_has_the_three_models_side_by_side(found: Xor) -> None:
    lines = found.text().splitlines()
    assert rescaled(BY_HAND) == "1.00·ReLU(x − 1.00y) + 1.00·ReLU(y − 1.00x)"
    assert f"rescaled   {rescaled(BY_HAND)}" in lines
    rows = {line[:20].strip(): line[20:].split() for line in lines if line}
    assert rows["linear regression"] == ["0.50", "0.50", "0.50", "0.50", "0.25"]
    assert rows["without the ReLU"] == ["0.00", "0.33", "0.33", "0.67", "0.33"]
    assert rows["with the ReLU"] == ["0.00", "1.00", "1.00", "0.00", "0.00"]


@pytest.mark.parametrize("unicode", [True, False])
def test_the_text_fits_the_terminal(found: Xor, unicode: bool) -> None:
    text = found.text(unicode)
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii() is not unicode


def test_findings_state_the_counted_numbers(found: Xor) -> None:
    said = " ".join(found.findings)
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
    shown = found.start[found.seed], found.trained[found.seed]
    for ax, weights, line in zip(drawn["hidden_plane"].axes, shown, found.lines[1:], strict=True):
        *points, drawn_line = ax.lines
        corners = [point.get_xydata()[0] for point in points if len(point.get_xydata()) == 1]
        sample = np.concatenate([p.get_xydata() for p in points if len(p.get_xydata()) > 1])
        np.testing.assert_array_equal(corners, hidden(CORNERS, weights))
        order = np.argsort(found.labels, kind="stable")
        np.testing.assert_array_equal(sample, hidden(found.points[order], weights))
        for at in (drawn_line.get_xy1(), drawn_line.get_xy2()):
            assert abs(line[:2] @ np.asarray(at) + line[2]) < 1e-9
    before, after = ([note.get_text() for note in ax.texts] for ax in drawn["hidden_plane"].axes)
    assert before == ["(0, 0)", "(1, 0)", "(0, 1)", "(1, 1)"]
    assert after == ["(0, 0) and (1, 1)", "(1, 0)", "(0, 1)"]


def test_frames_lie_on_the_loss_curve(found: Xor, drawn: dict[str, Figure]) -> None:
    *frames, curve = drawn["training"].axes
    for ax, step, weights in zip(frames, found.frame_steps, found.frames, strict=True):
        assert ax.get_title(loc="left") == f"step {step:,}"
        corners = [line.get_xydata()[0] for line in ax.lines[1:]]
        np.testing.assert_array_equal(corners, hidden(CORNERS, weights))
        error = ((predict(CORNERS, weights) - XOR) ** 2).mean()
        assert error == pytest.approx(found.loss_curve[step])
    np.testing.assert_array_equal(curve.lines[0].get_ydata(), found.loss_curve)
    dots = np.column_stack([found.frame_steps, found.loss_curve[found.frame_steps]])
    np.testing.assert_array_equal(curve.lines[1].get_xydata(), dots)
    assert found.loss_curve[found.frame_steps[-1]] < LEARNED
    assert found.loss_curve[found.frame_steps[-1] - 1] > LEARNED


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


def test_figures_have_a_caption_and_words_for_who_cannot_see_them(found: Xor) -> None:
    figures = xor_figures(found)
    assert list(figures) == ["fields", "hidden_plane", "training", "seeds"]
    for _, caption, words in figures.values():
        assert caption.endswith(".")
        assert words.endswith(".")
        assert caption != words
