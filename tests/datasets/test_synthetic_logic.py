"""The generated tasks of logic: answers read off the texts, and nothing that gives them away."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations, product

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.registry import REGISTRY, build
from llmprobe.datasets.synthetic.common import Write
from llmprobe.datasets.synthetic.syllogism import NOUNS, WORDING
from llmprobe.ground.errors import UserError
from llmprobe.probing.baselines import bag_of_words_accuracy
from llmprobe.probing.splits import assign_folds

Setting = tuple[str, dict[str, int]]

SETTINGS: list[Setting] = [
    *(("boolean", {"depth": depth}) for depth in range(1, 6)),
    *(("multi_hop", {"hops": hops}) for hops in range(1, 9)),
    *(("syllogism", {"premises": premises}) for premises in range(2, 6)),
    *(
        ("transitive_order", {"people": people, "distance": distance})
        for people in range(5, 11)
        for distance in range(1, people - 2)
    ),
]
"""Every value of each dial, and of what else can be set."""

SOME: list[Setting] = [
    *(("boolean", {"depth": depth}) for depth in range(1, 6)),
    *(("multi_hop", {"hops": hops}) for hops in (1, 2, 8)),
    *(("syllogism", {"premises": premises}) for premises in (2, 3, 5)),
    ("transitive_order", {"people": 5, "distance": 2}),
    ("transitive_order", {"people": 8, "distance": 1}),
    ("transitive_order", {"people": 8, "distance": 5}),
    ("transitive_order", {"people": 10, "distance": 7}),
]
POSITIVE = {
    "boolean": "true",
    "multi_hop": "yes",
    "syllogism": "valid",
    "transitive_order": "yes",
}


def rows(dataset: ConceptDataset) -> list[dict[Hashable, object]]:
    return dataset.to_pandas().astype(object).to_dict("records")


def writer(name: str, **options: int) -> Write:
    """What writes one text of a task."""
    write: Write = REGISTRY[name].build.__wrapped__(**options)  # type: ignore[attr-defined]
    return write


def parts(pattern: str, text: str) -> tuple[str, ...]:
    """What the groups of a pattern hold, which must be all of the text."""
    match = re.fullmatch(pattern, text)
    assert match, text
    return match.groups()


def accuracy_of_words(texts: Sequence[str], y: np.ndarray, neighbours: int = 1) -> float:
    """Out-of-fold accuracy of how often words, and so many beside each other, occur in a text."""
    counts = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, neighbours))
    folds = PredefinedSplit(assign_folds(y, None, 5, 0, "words"))
    with threadpool_limits(1):
        model = make_pipeline(counts, LogisticRegression(max_iter=2000))
        return float(cross_val_score(model, texts, y, cv=folds).mean())


def value_and_depth(node: ast.AST) -> tuple[bool, int]:
    """Of an expression, and how many operators deep one has to look into it to know its value."""
    if isinstance(node, ast.UnaryOp):
        value, depth = value_and_depth(node.operand)
        return not value, depth
    if not isinstance(node, ast.BoolOp):
        return ast.literal_eval(node), 0
    sides = [value_and_depth(side) for side in node.values]
    assert len(sides) == 2
    decisive = isinstance(node.op, ast.Or)  # one true side decides "or", one false side "and"
    deciding = [depth for value, depth in sides if value == decisive]
    if deciding:
        return decisive, 1 + min(deciding)
    return not decisive, 1 + max(depth for _, depth in sides)


@pytest.mark.parametrize("depth", range(1, 6))
def test_a_boolean_expression_has_its_value_as_deep_as_it_says(depth: int) -> None:
    for row in rows(build("boolean", n=200, depth=depth)):
        expression, end = str(row["text"])[:-3], str(row["text"])[-3:]
        assert (expression, end) == (row["expression"], " is")
        tree = ast.parse(expression, mode="eval")
        value = eval(compile(tree, "text", "eval"), {"__builtins__": {}})
        assert row["label"] == str(value).lower()
        assert value_and_depth(tree.body) == (value, row["depth"])
        assert row["depth"] == depth
        operators = Counter(re.findall("and|or", expression))
        assert operators["and"] == row["ands"]
        assert operators.total() == 7
        operands = re.findall(r"(not )?(True|False)", expression)
        assert len(operands) == 8
        assert sum((word == "True") ^ bool(sign) for sign, word in operands) == row["trues"]


def test_a_boolean_expression_has_the_same_words_and_sides_at_every_depth() -> None:
    for seed in range(50):
        texts = [
            writer("boolean", depth=depth)(np.random.default_rng(seed), answer)[0]
            for depth in range(1, 6)
            for answer in (0, 1)
        ]
        assert len(set(texts)) == 10
        assert len({tuple(sorted(text.split())) for text in texts}) == 1
        operands_and_parentheses = [
            re.sub(r"(not )?(True|False)", "x", re.sub(r"and|or|not (?=\()", "", text))
            for text in texts
        ]
        assert len(set(operands_and_parentheses)) == 1


def test_every_draw_of_boolean_words_can_be_arranged_for_both_answers_and_every_depth() -> None:
    """So whatever was drawn before the answer, shuffling comes to an end."""
    drawn = {
        (int(str(row["trues"])), int(str(row["ands"])), str(row["text"]).count("not ("))
        for row in rows(build("boolean", n=1000))
    }
    assert len(drawn) == 6 * 3
    for trues, ands, negated in drawn:
        missing = {(value, depth) for value in (False, True) for depth in range(1, 6)}
        for true_at, and_at, not_at in product(
            combinations(range(8), trues), combinations(range(7), ands),
            combinations(range(6), negated),
        ):  # fmt: skip
            value, depth = 7 in true_at, 0
            for level in reversed(range(7)):
                side = level in true_at
                if level in and_at:
                    value, depth = (value and side), 1 if not side else 1 + depth
                else:
                    value, depth = (value or side), 1 if side else 1 + depth
                value ^= level - 1 in not_at
            missing -= {(value, depth)}
            if not missing:
                break
        assert not missing


@pytest.mark.parametrize(
    ("depth", "by_pairs", "by_ends"),
    [(1, 0.71, 0.99), (2, 0.53, 0.75), (3, 0.53, 0.63), (4, 0.53, 0.55), (5, 0.53, 0.52)],
)
def test_the_deeper_a_boolean_expression_the_less_is_seen_without_working_it_out(
    depth: int, by_pairs: float, by_ends: float
) -> None:
    """What the docstring says of pairs of words and of the words at the ends with their places."""
    dataset = build("boolean", n=2000, depth=depth)
    y = (dataset.labels == "true").astype(int)
    placed = []
    for text in dataset.texts:
        words = text.split()
        ends = [*enumerate(words[:14]), *enumerate(words[-14:], start=-14)]
        placed.append(" ".join(f"{word}{place}" for place, word in ends))
    assert accuracy_of_words(dataset.texts, y, 2) == pytest.approx(by_pairs, abs=0.03)
    assert accuracy_of_words(placed, y) == pytest.approx(by_ends, abs=0.03)


@pytest.mark.parametrize("hops", [1, 2, 3, 8])
def test_the_relations_lead_to_the_answer(hops: int) -> None:
    for row in rows(build("multi_hop", n=200, hops=hops)):
        *premises, question = re.split(r"(?<=\.) ", str(row["text"]))
        facts = {}
        for premise in premises:
            relation, one, other = parts(r"The (\w+) of (\w+) is (\w+)\.", premise)
            facts[relation, one] = other
        assert len(facts) == len(premises) == 2 * hops
        asked, path, start = parts(r"Is (\w+) the (.+) of (\w+)\?", question)
        relations = path.split(" of the ")[::-1]
        assert len(set(relations)) == len(relations) == hops == row["hops"]
        # Along the chain asked about, and along the other one: the same relations, other people.
        (other_start,) = {one for relation, one in facts if relation == relations[0]} - {start}
        way, other_way = [start], [other_start]
        for relation in relations:
            way.append(facts[relation, way[-1]])
            other_way.append(facts[relation, other_way[-1]])
        assert len({*way, *other_way}) == 2 * (hops + 1)
        assert asked == (way[-1] if row["label"] == "yes" else other_way[-1])
        assert (row["asked"], row["path"], row["start"]) == (asked, path, start)
        assert [row["bridge"], row["answer"]] == way[-2:]


@pytest.mark.parametrize(("people", "distance"), [(5, 1), (5, 2), (8, 3), (8, 5), (10, 7)])
def test_one_comes_before_the_other_where_the_comparisons_lead_to_it(
    people: int, distance: int
) -> None:
    for row in rows(build("transitive_order", n=200, people=people, distance=distance)):
        text, relation = str(row["text"]), row["relation"]
        after = dict(re.findall(rf"(\w+) is {relation} than (\w+)\.", text))
        order = list(set(after) - set(after.values()))
        for _ in after:
            order.append(after[order[-1]])
        assert len(set(order)) == len(order) == people == row["people"]
        first, second = parts(rf".* Is (\w+) {relation} than (\w+) is\?", text)
        assert (row["first"], row["second"]) == (first, second)
        steps = order.index(second) - order.index(first)
        assert row["label"] == ("yes" if steps > 0 else "no")
        assert abs(steps) == row["distance"] == distance
        assert not {first, second} & {order[0], order[-1]}


@pytest.mark.parametrize("premises", [2, 3, 4, 5])
def test_an_argument_is_valid_where_no_model_of_its_premises_speaks_against_it(
    premises: int,
) -> None:
    """All models of three individuals; a noun is the set of those it holds of, as bits.

    Three are enough: two for a conclusion of "all" or "no" that is false beside a premise of
    "some" that is true, and for the invalid ones a model is found in which no noun is empty.
    """
    for row in rows(build("syllogism", n=60 if premises == 5 else 200, premises=premises)):
        sentence = r"(all|no|some) (\w+) are (not )?(\w+)\."
        statements = re.findall(sentence, str(row["text"]).lower())
        assert len(statements) == premises + 1
        nouns = {noun for _, one, _, other in statements for noun in (one, other)}
        assert len(nouns) == premises + 1
        sets = np.indices((8,) * len(nouns)).reshape(len(nouns), -1)
        holds_of = dict(zip(nouns, sets, strict=True))
        true = []
        for quantifier, one, negated, other in statements:
            both, only_one = holds_of[one] & holds_of[other], holds_of[one] & ~holds_of[other]
            is_so = {"all": only_one == 0, "no": both == 0, "some": both > 0, "not": only_one > 0}
            true.append(is_so["not" if negated else quantifier])
        models = np.all(true[:-1], axis=0)
        no_noun_is_empty = np.all(sets, axis=0)
        assert (models & no_noun_is_empty).any()
        if row["label"] == "valid":
            assert not (models & ~true[-1]).any()
        else:
            assert (models & ~true[-1] & no_noun_is_empty).any()


def test_a_mood_is_the_chain_of_the_argument() -> None:
    pattern = {kind: wording.format(r"(\w+)", r"(\w+)") for kind, wording in WORDING.items()}
    for row in rows(build("syllogism", n=200, premises=4)):
        subject, predicate, mood = str(row["subject"]), str(row["predicate"]), str(row["mood"])
        before, conclusion = str(row["text"]).lower().split(" therefore, ")
        assert conclusion == f"{WORDING[mood[-1]].format(subject, predicate)}."
        noun, sentences = subject, before.split(". ")
        for kind in mood[:-1]:
            (premise,) = (s for s in sentences if re.search(rf"\b{noun}\b", s))
            ends = set(parts(pattern[kind], premise.rstrip(".")))
            (noun,) = ends - {noun}
            sentences.remove(premise)
        assert noun == predicate
        assert not sentences


def test_nouns_are_many_plurals_of_letters() -> None:
    assert len(set(NOUNS)) == len(NOUNS) >= 400
    assert all(re.fullmatch(r"[a-z]{4,10}[bdgkmnprt]s", noun) for noun in NOUNS)


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_a_text_has_the_same_words_whatever_the_answer(name: str, options: dict[str, int]) -> None:
    """Exactly: the same random draws, asked for either answer, give the same multiset of words.

    The number of characters is then the same too.
    """
    write = writer(name, **options)
    for seed in range(50):
        no, yes = (write(np.random.default_rng(seed), answer)[0] for answer in (0, 1))
        assert no != yes
        assert Counter(no.split()) == Counter(yes.split())


@pytest.mark.parametrize("name", POSITIVE)
def test_words_and_length_do_not_give_the_answer_away(name: str) -> None:
    """That of many texts none is a repeat, and half have each answer, does not bring cues back."""
    dataset = build(name, n=2000)
    y = (dataset.labels == POSITIVE[name]).astype(int)
    fold_of = assign_folds(y, None, 5, 0, name)
    assert abs(accuracy_of_words(dataset.texts, y) - 0.5) <= 0.04
    assert abs(bag_of_words_accuracy(dataset.texts, y, fold_of) - 0.5) <= 0.04
    assert abs(roc_auc_score(y, [len(text) for text in dataset.texts]) - 0.5) <= 0.04


@pytest.mark.parametrize(("name", "options"), SOME)
def test_answers_are_balanced_no_text_is_there_twice_and_the_seed_fixes_all(
    name: str, options: dict[str, int]
) -> None:
    dataset = build(name, n=501, **options)
    assert len(set(dataset.texts)) == len(dataset) == 501
    assert (dataset.labels == POSITIVE[name]).sum() == 251
    assert len(dataset.classes) == 2
    assert dataset.groups is None
    assert dataset.content_hash == build(name, n=501, seed=0, **options).content_hash
    assert not set(dataset.texts) & set(build(name, n=501, seed=1, **options).texts)
    for option, value in options.items():
        assert set(dataset.fields[option]) == {value}


@pytest.mark.parametrize("name", POSITIVE)
def test_the_entry_names_the_dial(name: str) -> None:
    entry = REGISTRY[name]
    dials = {"boolean": "depth", "multi_hop": "hops", "syllogism": "premises"}
    assert entry.dial == dials.get(name, "distance")
    assert entry.family == "reasoning"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("boolean", "expression"),
        *(("multi_hop", field) for field in ("asked", "path", "start", "bridge", "answer")),
        *(("syllogism", field) for field in ("subject", "predicate")),
        *(("transitive_order", field) for field in ("relation", "first", "second")),
    ],
)
def test_parts_of_a_text_can_be_probed(name: str, field: str) -> None:
    dataset = build(name, n=50)
    ranges = dataset.ranges(f"span:{field}", "last") or []
    for row, (start, stop) in zip(rows(dataset), ranges, strict=True):
        assert str(row["text"])[start:stop] == str(row[field])


@pytest.mark.parametrize(
    ("name", "option", "beyond", "allowed"),
    [
        ("boolean", "depth", 6, "1 to 5"),
        ("multi_hop", "hops", 9, "1 to 8"),
        ("syllogism", "premises", 6, "2 to 5"),
        ("transitive_order", "people", 11, "5 to 10"),
        ("transitive_order", "distance", 6, "1 to 5"),
    ],
)
def test_an_option_out_of_range_names_what_is_allowed(
    name: str, option: str, beyond: int, allowed: str
) -> None:
    for value in (0, beyond, 2.5, True, "3", None):
        with pytest.raises(UserError) as caught:
            build(name, **{option: value})
        assert str(caught.value) == (
            f"dataset {name!r}: {option} is {value!r}; allowed: a whole number from {allowed}"
        )


def test_the_allowed_distance_depends_on_the_number_of_people() -> None:
    assert len(build("transitive_order", n=10, people=10, distance=7)) == 10
    with pytest.raises(UserError, match="distance is 3; allowed: a whole number from 1 to 2"):
        build("transitive_order", people=5, distance=3)
