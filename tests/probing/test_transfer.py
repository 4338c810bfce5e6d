"""Probes are scored elsewhere, on units they have not seen, and what they read there is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kstest
from threadpoolctl import threadpool_limits

from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.shared_units import shared_units
from llmprobe.ground.errors import UserError
from llmprobe.probing import transfer as module
from llmprobe.probing import transfer_scores
from llmprobe.probing.transfer_plan import plan_transfer
from llmprobe.probing.transfer_sets import TransferSet, sets_of, sets_of_all
from llmprobe.probing.workers import Arrays
from llmprobe.results.metrics import METRICS, Predictions
from llmprobe.results.resampling import Resamples
from llmprobe.results.transfer import TransferMatrix


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Problems this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


FAST = ProbeConfig(l2=10.0, folds=4)


def dataset_of(name: str, labels: Sequence[object] | np.ndarray, **parts: object) -> ConceptDataset:
    texts = [f"{name} says the thing of number {row} aloud" for row in range(len(labels))]
    return ConceptDataset(name, texts, np.asarray(labels), **parts)


def set_of(dataset: ConceptDataset, *layers: np.ndarray) -> TransferSet:
    return sets_of(dataset, Arrays(dict(enumerate(layers))))[0]


def transfer(
    sets: Sequence[TransferSet],
    config: ProbeConfig,
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    across_layers: bool = False,
) -> TransferMatrix:
    plan = plan_transfer(sets, config, train, test)
    return module.transfer(plan, across_layers=across_layers, progress=False)


def cell(matrix: TransferMatrix, train: str, test: str) -> pd.Series:
    table = matrix.table
    return table[(table["train"] == train) & (table["test"] == test)].iloc[0]


def planted(
    n: int, sign: float, rng: np.random.Generator, shift: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and states of eight features of which the first tells them, with a sign."""
    y = np.arange(n) % 2
    X = rng.normal(size=(n, 8))
    X[:, 0] += sign * (2 * y - 1) + shift
    return y, X.astype(np.float32)


def test_a_direction_that_transfers_and_one_that_flips_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    sets = [
        set_of(dataset_of(name, y), X)
        for name, (y, X) in {
            "home": planted(120, 1, rng),
            "same": planted(120, 1, rng),
            "turned": planted(120, -1, rng),
            "nothing": planted(400, 0, rng),
        }.items()
    ]
    matrix = transfer(sets, FAST, train=["home"])
    reads = matrix.table.set_index("test")["reads"].to_dict()
    assert reads == {"home": "yes", "same": "yes", "turned": "opposite", "nothing": "no"}
    assert cell(matrix, "home", "turned")["auroc"] < 0.2
    worst = matrix.worst().iloc[0]
    assert worst["worst_transfer_test"] == "turned"
    assert worst["dataset"] == "home"


def test_a_refitted_threshold_tells_a_moved_offset_from_a_moved_direction() -> None:
    rng = np.random.default_rng(1)
    home, moved = planted(200, 2, rng), planted(200, 2, rng, shift=6)
    sets = [set_of(dataset_of("home", home[0]), home[1]),
            set_of(dataset_of("moved", moved[0]), moved[1])]  # fmt: skip
    elsewhere = cell(transfer(sets, FAST), "home", "moved")
    assert elsewhere["accuracy"] < 0.6
    assert elsewhere["accuracy_refitted_threshold"] > 0.9
    assert elsewhere["auroc"] > 0.95


def test_a_threshold_of_each_of_many_classes_is_refitted() -> None:
    rng = np.random.default_rng(11)
    centres = 3 * np.eye(3)
    y = np.arange(150) % 3
    home, moved = (centres[y] + rng.normal(size=(150, 3)) for _ in range(2))
    moved[:, 2] += 5  # All look like the third class.
    sets = [set_of(dataset_of(name, np.array(list("rgb"))[y]), X.astype(np.float32))
            for name, X in (("home", home), ("moved", moved))]  # fmt: skip
    matrix = transfer(sets, FAST)
    elsewhere, at_home = cell(matrix, "home", "moved"), cell(matrix, "home", "home")
    assert elsewhere["accuracy"] < 0.5
    assert elsewhere["accuracy_refitted_threshold"] > at_home["accuracy"] - 0.05
    assert at_home["accuracy_refitted_threshold"] == pytest.approx(at_home["accuracy"], abs=0.05)


def test_refitted_thresholds_never_saw_the_labels_that_they_score() -> None:
    rng = np.random.default_rng(12)
    truth, fold_of = rng.integers(4, size=2000), np.arange(2000) % 5
    logits = rng.normal(size=(2000, 4))
    assert transfer_scores.with_refitted_thresholds(truth, logits, fold_of) == pytest.approx(
        0.25, abs=0.04
    )
    assert np.isnan(transfer_scores.with_refitted_thresholds(truth, logits, np.zeros(2000)))
    # Of two classes it is the best of all thresholds.
    labels, margin = truth % 2, rng.normal(size=2000) + truth % 2
    offset = transfer_scores._best_offsets(labels, np.column_stack([0 * margin, margin]))[1]
    right = [((margin > cut) == labels).mean() for cut in [*margin, -offset]]
    assert right[-1] >= max(right)


def wordings(
    rng: np.random.Generator, signs: dict[str, int], n: int = 120
) -> tuple[ConceptDataset, Arrays]:
    """Return statements on n things in each of some wordings, in which a direction has a sign."""
    parts = [planted(n, sign, rng) for sign in signs.values()]
    fields = pd.DataFrame({"wording": np.repeat([*signs], n)})
    groups = np.tile(np.arange(n), len(signs))
    labels, X = (np.concatenate(of) for of in zip(*parts, strict=True))
    return dataset_of("facts", labels, groups=groups, fields=fields), Arrays({0: X})


def test_a_wording_that_is_left_out_is_scored_by_a_probe_of_all_others() -> None:
    signs = {"says": 1, "holds": 1, "denies": -1}
    dataset, states = wordings(np.random.default_rng(13), signs)
    apart = transfer(sets_of(dataset, states, "wording"), FAST)
    both = transfer(sets_of(dataset, states, "wording", leave_one_out=True), FAST)
    rest = both.table[both.table["fitted_on"] == "all but one"].set_index("train")
    assert rest["test"].to_dict() == {f"all but {wording}": wording for wording in signs}
    assert rest.loc["all but denies", "reads"] == "opposite"
    # Cells of single wordings are what they were: the folds are the same.
    parts = both.table[both.table["fitted_on"] == "part"].reset_index(drop=True)
    adjusted = ["p_value_adjusted", "reads"]
    pd.testing.assert_frame_equal(parts.drop(columns=adjusted), apart.table.drop(columns=adjusted))
    # One that was fitted on a wording alone is no probe of the curve; one of all others nearly is.
    assert apart.worst()["worst_transfer_train"].item() in signs
    assert both.worst()["worst_transfer_train"].item().startswith("all but ")
    assert both.worst()["worst_transfer_auroc"].item() == rest["auroc"].min()
    named = plan_transfer(
        sets_of(dataset, states, "wording", leave_one_out=True), FAST, ["says"], ["denies"]
    )
    assert {(one.name, other.name) for one, other in named.shared} == {
        ("says", "denies"), ("all but denies", "denies")
    }  # fmt: skip


def test_a_probe_of_all_other_wordings_has_not_seen_the_units_that_it_scores() -> None:
    rng = np.random.default_rng(14)
    n = 80
    codes, labels = rng.normal(size=(n, 400)), rng.permutation(np.arange(n) % 2)
    X = np.tile(codes, (3, 1)) + 0.05 * rng.normal(size=(3 * n, 400))
    fields = pd.DataFrame({"wording": np.repeat(["a", "b", "c"], n)})
    dataset = dataset_of("facts", np.tile(labels, 3), groups=np.tile(np.arange(n), 3),
                         fields=fields)  # fmt: skip
    states = Arrays({0: X.astype(np.float32)})
    table = transfer(sets_of(dataset, states, "wording", leave_one_out=True), FAST).table
    assert (table["fitted_on"] == "all but one").sum() == 3
    assert table["auroc"].between(0.25, 0.75).all()


def test_of_two_values_all_but_one_is_the_other() -> None:
    dataset, states = wordings(np.random.default_rng(15), {"says": 1, "denies": -1})
    sets = sets_of(dataset, states, "wording", leave_one_out=True)
    assert [one.name for one in sets] == ["says", "denies"]


def test_all_but_one_has_every_row_of_the_others_and_none_of_its_own() -> None:
    signs = {"says": 1, "holds": 1, "denies": -1}
    dataset, states = wordings(np.random.default_rng(18), signs)
    sets = {one.name: one for one in sets_of(dataset, states, "wording", leave_one_out=True)}
    for wording in signs:
        others = np.concatenate([sets[other].rows for other in signs if other != wording])
        assert sets[f"all but {wording}"].rows.tolist() == sorted(others.tolist())


def test_without_a_set_of_two_classes_that_is_said() -> None:
    forms = pd.DataFrame({"form": ["a"] * 20 + ["b"] * 20})
    dataset = dataset_of("alike", np.repeat([0, 1], 20), fields=forms)
    states = Arrays({0: np.zeros((40, 2), np.float32)})
    with pytest.raises(UserError, match="no set has two classes"):
        plan_transfer(sets_of(dataset, states, "form"), FAST)


def test_texts_without_a_field_are_scored_by_the_probe_that_did_not_see_their_unit() -> None:
    rng = np.random.default_rng(16)
    dataset, states = wordings(rng, {"says": 1, "holds": 1})
    _, nothing = wordings(rng, {"says": 0, "holds": 0})
    masks = {
        "facts": [
            (field, replace(dataset, name=f"facts:without {field}"), of_texts)
            for field, of_texts in (("thing", nothing), ("other", states))
        ]
    }
    for by in (None, "wording"):
        plan = plan_transfer(sets_of_all([(dataset, states)], by, masked=masks), FAST)
        (whole,) = {one for one in plan.train if one.name == "facts"}
        for one in plan.unit_of:
            if one.masked is not None:
                assert (plan.fold_of[one] == plan.fold_of[whole]).all()
                assert [a for a, b in plan.shared if b is one] == [whole]
        matrix = module.transfer(plan, progress=False)
        table = matrix.table.set_index(["train", "masked"])
        assert table.loc[("facts", "thing"), "auroc"] == pytest.approx(0.5, abs=0.15)
        # The same states get the same scores as at home.
        scores = ["accuracy", "auroc", "p_value", "test_dataset"]
        home, same = (table.loc[("facts", field), scores] for field in ("", "other"))
        pd.testing.assert_series_equal(home, same, check_names=False)
        found = matrix.masked().iloc[0]
        assert (found["masked_field"], found["masked_auroc"]) == ("other", home["auroc"])
        # What is not read any more was no transfer that failed.
        assert len(matrix.worst()) == (by is not None)


def test_two_sets_of_one_name_are_refused() -> None:
    rng = np.random.default_rng(17)
    dataset, states = wordings(rng, {"says": 1, "holds": 1})
    y, X = planted(60, 1, rng)
    sets = sets_of_all([(dataset, states), (dataset_of("says", y), Arrays({0: X}))], "wording")
    with pytest.raises(UserError, match="two sets are called 'says'"):
        plan_transfer(sets, FAST)


def facts(form: str, codes: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> TransferSet:
    """Return statements on things of which a state tells nothing but which thing it is."""
    names = [f"thing {chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(len(y))]
    dataset = dataset_of(form, y, fields=pd.DataFrame({"thing": names}))
    X = codes + 0.05 * rng.normal(size=codes.shape)
    return set_of(dataset, X.astype(np.float32))


def test_a_probe_that_has_memorised_facts_is_at_chance_elsewhere() -> None:
    rng = np.random.default_rng(2)
    n = 160
    codes, y = rng.normal(size=(n, 400)), rng.permutation(np.arange(n) % 2)
    sets = [facts("said", codes, y, rng), facts("repeated", codes, y, rng)]
    matrix = transfer(sets, FAST)
    assert (matrix.table["shared_units"] == n).all()
    assert matrix.table["auroc"].between(0.3, 0.7).all()
    # What it would be if units were not shared out together: memory passes for generalisation.
    for one in sets:
        object.__setattr__(one.dataset, "fields", pd.DataFrame())
    leaked = cell(transfer(sets, FAST), "said", "repeated")
    assert leaked["auroc"] > 0.9


def test_no_row_is_scored_by_a_probe_that_saw_its_unit() -> None:
    y, groups = np.arange(60) % 2, np.arange(60) // 4
    forms = pd.DataFrame({"form": ["a", "a", "b", "b"] * 15})
    both = dataset_of("both", y, groups=groups, fields=forms)
    plan = plan_transfer(sets_of(both, Arrays({}), by="form"), FAST)
    of_unit: dict[int, set[int]] = {}
    for one in plan.train:
        for row, fold in zip(one.rows, plan.fold_of[one], strict=True):
            of_unit.setdefault(int(groups[row]), set()).add(int(fold))
    assert len(of_unit) == 15
    assert all(len(numbers) == 1 for numbers in of_unit.values())


def test_labels_of_one_fold_move_no_score_of_that_fold() -> None:
    rng = np.random.default_rng(4)
    y, X = planted(80, 0.5, rng)
    groups = np.arange(80) // 2
    forms = pd.DataFrame({"form": np.where(np.arange(80) // 2 % 2, "a", "b")})

    def held_out(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        both = dataset_of("both", labels, groups=groups, fields=forms)
        sets = sets_of(both, Arrays({0: X}), by="form")
        plan = plan_transfer(sets, FAST)
        one, other = plan.train
        trained = module._fit(one, plan, [0], False)
        cells = {(one, other): plan.shared[one, other]}
        answers = module._scored({one: trained}, cells, plan.fold_of, [0], False)[1]
        return answers[one, other], plan.fold_of[other]

    before, fold_of = held_out(y)
    changed = y.copy()  # Both rows of a group of the train set: the folds stay as they are.
    one = np.flatnonzero(forms["form"] == "b")[:2]
    changed[one] = changed[one][::-1]
    after, _ = held_out(changed)
    same = (before == after).all(axis=1)
    assert same.sum() == (fold_of == fold_of[same][0]).sum()
    assert not same.all()


def test_p_is_uniform_without_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERMUTATIONS", 199)
    monkeypatch.setattr(module, "Resamples", partial(Resamples, samples=20))
    rng = np.random.default_rng(5)
    groups = np.arange(48) // 2
    names = pd.DataFrame({"thing": [f"thing {chr(97 + group)}" for group in groups]})
    p = []
    for draw in range(60):
        sets, is_shared = [], draw % 2 == 0
        of_group, codes = rng.permutation(np.arange(24) % 2), rng.normal(size=(24, 4))
        for name in "ab":
            if not is_shared:
                of_group, codes = rng.permutation(of_group), rng.normal(size=(24, 4))
            fields = names if is_shared else pd.DataFrame()
            dataset = dataset_of(name, of_group[groups], groups=groups, fields=fields)
            X = codes[groups] + rng.normal(size=(48, 4))
            sets.append(set_of(dataset, X.astype(np.float32)))
        matrix = transfer(sets, FAST, train=["a"], test=["b"])
        p.append(matrix.table["p_value"].item())
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.05) <= 0.12


def test_areas_of_many_labellings_are_those_of_the_metric() -> None:
    rng = np.random.default_rng(6)
    fold_of, truth = np.arange(40) % 3, rng.integers(2, size=(40, 5))
    logits = rng.normal(size=40).round(1)  # With ties.
    for labels, area in zip(
        truth.T, transfer_scores.aurocs(truth == 1, logits, fold_of), strict=True
    ):
        predicted = np.column_stack([-logits, logits])
        answers = Predictions(labels, predicted, Resamples(40), fold_of)
        assert area == pytest.approx(METRICS["auroc"].estimate(answers))
    numbers = rng.normal(size=(40, 3))
    for labels, r in zip(
        numbers.T, transfer_scores._rank_correlations(numbers, logits, fold_of), strict=True
    ):
        answers = Predictions(labels, logits, Resamples(40), fold_of)
        assert r == pytest.approx(METRICS["rank_correlation"].estimate(answers), abs=1e-6)


def test_classes_that_both_sets_have_are_compared() -> None:
    rng = np.random.default_rng(7)
    centres = 3 * rng.normal(size=(4, 6))
    sets = []
    for name, classes in (("a", "rgb"), ("b", "gbw"), ("c", "xy")):
        labels = np.array(list(classes))[np.arange(90) % len(classes)]
        place = np.array(["rgbwxy".index(label) % 4 for label in labels])
        X = centres[place] + rng.normal(size=(90, 6))
        sets.append(set_of(dataset_of(name, labels), X.astype(np.float32)))
    matrix = transfer(sets, FAST)
    both = cell(matrix, "a", "b")
    assert both["n_examples"] == 60
    assert both["auroc"] > 0.9
    assert both["reads"] == "yes"
    none = cell(matrix, "a", "c")
    assert none["reads"] == "not defined"
    assert "classes in common" in none["note"]
    with pytest.raises(UserError, match="a and c have fewer than two classes in common"):
        transfer([sets[0], sets[2]], FAST)


def test_numbers_are_compared_by_rank() -> None:
    rng = np.random.default_rng(8)
    sets = []
    for name, sign in (("a", 1), ("b", -1)):
        y, X = rng.normal(size=100), rng.normal(size=(100, 6))
        X[:, 0] += 2 * sign * y
        sets.append(set_of(dataset_of(name, y), X.astype(np.float32)))
    matrix = transfer(sets, ProbeConfig(kind="ridge", l2=10.0))
    assert cell(matrix, "a", "a")["rank_correlation"] > 0.7
    elsewhere = cell(matrix, "a", "b")
    assert elsewhere["rank_correlation"] < -0.7
    assert elsewhere["reads"] == "opposite"
    assert np.isnan(elsewhere["auroc"])
    worst = matrix.worst().iloc[0]
    assert worst["worst_transfer_rank_correlation"] == elsewhere["rank_correlation"]
    assert np.isnan(worst["worst_transfer_auroc"])


def test_the_layer_is_the_train_sets_own_best_and_layers_can_be_crossed() -> None:
    rng = np.random.default_rng(9)
    (y, noise), (_, good) = planted(100, 0, rng), planted(100, 1.5, rng)
    a = set_of(dataset_of("a", y), noise, good)
    b = set_of(dataset_of("b", y), good, noise)
    matrix = transfer([a, b], FAST, across_layers=True)
    assert (cell(matrix, "a", "b")["train_layer"], cell(matrix, "b", "a")["train_layer"]) == (1, 0)
    layers = matrix.layers.set_index(["train", "test", "train_layer", "test_layer"])["auroc"]
    assert len(layers) == 16
    sides = ["model", "position", "train", "test", "train_dataset", "test_dataset"]
    assert len(matrix.table[sides].merge(matrix.layers, on=sides)) == 16
    assert layers["a", "b", 1, 0] > 0.9
    assert 0.3 < layers["a", "b", 1, 1] < 0.7
    at_best = layers["a", "b", 1, 1]
    assert cell(matrix, "a", "b")["auroc"] == pytest.approx(at_best, abs=1e-6)


def test_units_are_shared_by_text_entity_and_group_of_one_source() -> None:
    def shares(a: ConceptDataset, b: ConceptDataset, entity: str | None = None) -> int:
        return len(np.intersect1d(*shared_units([a, b], entity)))

    y, ids = [0, 1, 0, 1], np.array(["1", "2", "3", "4"])
    cities = pd.DataFrame({"city": ["Lima", "Oslo", "Rome", "Cairo"], "id": ["ax", "bx", "c", "d"],
                           "place": ["x 1", "x 2", "x 3", "x 4"]})  # fmt: skip
    other = cities.assign(city=["LIMA", "Oslo ", "Bern", "Kyiv"])
    assert shares(dataset_of("a", y, groups=ids), dataset_of("b", y, groups=ids)) == 0
    assert shares(dataset_of("a", y, fields=cities[["id"]]),
                  dataset_of("b", y, fields=cities[["id"]])) == 0  # fmt: skip
    assert shares(dataset_of("a", y, fields=cities), dataset_of("b", y, fields=other)) == 2
    assert shares(dataset_of("a", y, fields=cities), dataset_of("b", y, fields=other), "place") == 4
    same = dataset_of("a", y, groups=ids, source="one.csv")
    turned = dataset_of("b", y, groups=ids, source="one.csv")
    assert shares(same, turned) == 4
    again = ConceptDataset("c", [*same.texts[:2], "else", "other"], np.array(y))
    assert shares(same, again) == 2
    with pytest.raises(UserError, match="no dataset has a field 'town'"):
        shares(same, again, "town")
    # A field of which one value stands in several units names none, and joins nothing.
    kind = pd.DataFrame({"kind": ["hard", "easy", "hard", "easy"]})
    assert shares(dataset_of("a", y, fields=kind), dataset_of("b", y, fields=kind)) == 0


def test_what_is_not_there_is_refused_by_name() -> None:
    rng = np.random.default_rng(10)
    y, X = planted(40, 1, rng)
    one = set_of(dataset_of("one", y), X)
    with pytest.raises(UserError, match="no set is called 'two'; there are one"):
        transfer([one], FAST, test=["two"])
    with pytest.raises(UserError, match="one is the only set"):
        transfer([one], FAST)
    with pytest.raises(UserError, match="no field 'form'; its fields: none"):
        sets_of(one.dataset, one.states, by="form")
    with pytest.raises(UserError, match="states of different layers"):
        transfer([one, set_of(dataset_of("two", y), X, X)], FAST)
