"""The config: what may be written short, what is refused and how it is said."""

from __future__ import annotations

import string
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprobe.config import schema
from llmprobe.config.load import load_config
from llmprobe.config.schema import DatasetConfig, ModelConfig, PerturbConfig, RunConfig, Section
from llmprobe.ground.errors import UserError

MINIMAL = "models: [smollm2-135m]\ndatasets: [capitals]\n"


@pytest.fixture
def write(tmp_path: Path):
    """``write(text)``: a config file in a folder of its own."""

    def write(text: str) -> Path:
        path = tmp_path / "my-run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problem(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_config(*arguments, **keywords)
    return str(caught.value)


def test_a_name_stands_for_a_mapping(write) -> None:
    config = load_config(write(MINIMAL))
    assert config.models == [ModelConfig(id="smollm2-135m")]
    assert config.datasets == [DatasetConfig(name="capitals")]


def test_a_single_name_stands_for_a_list_of_one(write) -> None:
    config = load_config(write("models: smollm2-135m\ndatasets: {name: coin_flip, n: 10}"))
    assert [m.id for m in config.models] == ["smollm2-135m"]
    assert [d.n for d in config.datasets] == [10]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "CSV"])
def test_a_name_with_the_suffix_of_a_table_is_a_file(write, suffix: str) -> None:
    (dataset,) = load_config(write(f"models: [m]\ndatasets: [my data.{suffix}]")).datasets
    assert dataset.path is not None
    assert dataset.path.name == f"my data.{suffix}"
    assert dataset.title == "my data"


def test_the_name_of_a_run_is_by_default_that_of_its_file(write) -> None:
    assert load_config(write(MINIMAL)).name == "my-run"


@pytest.mark.parametrize("file", ["a b.yaml", ".hidden.yaml", "-x.yaml", "é?.yaml"])
def test_any_file_name_gives_a_usable_name_of_the_run(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text(MINIMAL)
    assert load_config(tmp_path / file).name


@pytest.mark.parametrize(
    ("id", "weights", "name"),
    [
        ("Qwen/Qwen2.5-0.5B", "pretrained", "Qwen2.5-0.5B"),
        ("folder/of/mine/", "pretrained", "mine"),
        ("x/model.gguf", "pretrained", "model"),
        ("gpt2", "random", "gpt2-random"),
    ],
)
def test_a_model_is_called_by_the_last_part_of_its_id(id: str, weights: Any, name: str) -> None:
    assert ModelConfig(id=id, weights=weights).name == name


def test_paths_are_relative_to_the_config_file(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "my.csv").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "my.csv").touch()
    monkeypatch.chdir(elsewhere)
    config = load_config(write("models: [./model]\ndatasets: [my.csv]"))
    assert config.models[0].id == str(tmp_path / "model")
    assert config.datasets[0].path == tmp_path / "my.csv"
    config = load_config(write("models: [m]\ndatasets: [{hub: ./model}, {hub: a/b}]"))
    assert [d.hub for d in config.datasets] == [str(tmp_path / "model"), "a/b"]


def test_a_missing_file_is_said_to_be_missing_beside_the_config(write, tmp_path: Path) -> None:
    (dataset,) = load_config(write("models: [m]\ndatasets: [absent.csv]")).datasets
    assert dataset.path == tmp_path / "absent.csv"


def test_home_is_understood(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "model").mkdir(parents=True)
    config = load_config(write("models: [~/model]\ndatasets: [~nobody-here/x.csv]"))
    assert config.models[0].id == str(tmp_path / "home" / "model")


def test_a_known_name_is_not_a_folder_of_the_same_name(write, tmp_path: Path) -> None:
    (tmp_path / "smollm2-135m").mkdir()
    assert load_config(write(MINIMAL)).models[0].id == "smollm2-135m"
    explicit = load_config(write("models: [./smollm2-135m]\ndatasets: [capitals]"))
    assert explicit.models[0].id == str(tmp_path / "smollm2-135m")


def test_a_hub_id_stays_as_it_is(write) -> None:
    config = load_config(write("models: [org/model]\ndatasets: [capitals]"))
    assert config.models[0].id == "org/model"


def test_a_shipped_config_is_known_by_name() -> None:
    assert load_config("quickstart").name == "quickstart"


@pytest.mark.parametrize(
    ("override", "where", "value"),
    [
        ("probe.folds=10", ("probe", "folds"), 10),
        ("probe.l2=0.5", ("probe", "l2"), 0.5),
        ("probe.l2=1e-3", ("probe", "l2"), 0.001),
        ("probe.l2=auto", ("probe", "l2"), "auto"),
        ("probe.l2=1e-12", ("probe", "l2"), 1e-12),
        ("probe.l2=1e12", ("probe", "l2"), 1e12),
        ("probe.learning_curve=[0.5, 0.1, 0.5]", ("probe", "learning_curve"), (0.1, 0.5)),
        ("extract.chat_template=true", ("extract", "chat_template"), True),
        ("models.0.dtype=float32", ("models", 0, "dtype"), "float32"),
        ("datasets.1.options.people=2", ("datasets", 1, "options"), {"people": 2}),
        ("datasets.0=coin_flip", ("datasets", 0, "name"), "coin_flip"),
        ("datasets.0.template=Is it? {text} = x", ("datasets", 0, "template"), "Is it? {text} = x"),
        ("models=[a, {id: b}]", ("models", 1, "id"), "b"),
        ("models=other", ("models", 0, "id"), "other"),
        ("probe.controls=[]", ("probe", "controls"), ()),
        ("report.html=false", ("report", "html"), False),
        ("probe.folds=", ("probe", "folds"), None),
    ],
)
def test_set_reaches_every_key(write, override: str, where: tuple[Any, ...], value: Any) -> None:
    path = write("models: [m]\ndatasets: [capitals, {name: coin_flip, as: flips}]\nreport:\n")
    if value is None:
        assert "probe.folds: None is not allowed" in problem(path, [override])
        return
    found: Any = load_config(path, [override])
    for key in where:
        found = found[key] if isinstance(key, int) else getattr(found, key)
    assert found == value


def test_later_settings_win(write) -> None:
    assert load_config(write(MINIMAL), ["probe.folds=3", "probe.folds=4"]).probe.folds == 4


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("probe.folds", "write it as dotted.key=value"),
        ("=3", "write it as dotted.key=value"),
        ("probe.folds=[", "not valid YAML"),
        ("models.1.dtype=float32", "models is a list of 1, so it has no '1'"),
        ("models.-1.dtype=float32", "models is a list of 1, so it has no '-1'"),
        ("models.²=x", "models is a list of 1"),
        ("name.x=3", "name is no mapping, so it has no 'x'"),
        ("probe.fold=3", "probe.fold: unknown key; did you mean 'folds'?"),
    ],
)
def test_a_wrong_setting_is_named(write, override: str, words: str) -> None:
    said = problem(write(MINIMAL + "name: n\n"), [override])
    assert words in said
    assert override.split("=")[0] in said


def test_limit_lowers_n_and_never_raises_it(write) -> None:
    path = write("models: [m]\ndatasets: [capitals, {name: coin_flip, n: 7}]")
    assert [d.n for d in load_config(path, limit=20).datasets] == [20, 7]
    assert [d.n for d in load_config(path, limit=5).datasets] == [5, 5]
    assert "--limit must be at least 1, not 0" in problem(path, limit=0)


def test_a_limit_hides_no_mistake(write) -> None:
    path = write("models: [m]\ndatasets: [{name: coin_flip, n: many}]")
    assert "datasets.0.n: 'many' is not allowed" in problem(path, limit=5)


RICH = """
name: rich
models: [smollm2-135m, {id: ./model, name: mine, dtype: float32, weights: random, seed: 3}]
datasets:
  - capitals
  - {name: coin_flip, n: 50, seed: 2, options: {people: 3}, as: "flips, three people"}
  - {path: my.csv, text: statement, label: truth, group: city, template: "Judge: {text} é ✓"}
extract: {position: mean, batch_tokens: 512, too_long: cut_left}
probe: {l2: 10, folds: 3, controls: [majority], seed: 1}
report: {html: false}
"""


def test_the_resolved_config_is_a_config_of_the_same_run(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "my.csv").touch()
    config = load_config(write(RICH))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config("config.yaml") == config
    assert "  as: flips, three people" in config.to_yaml()
    assert load_config("config.yaml").to_yaml() == config.to_yaml()


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("modles: [a]", "modles", "models"),
        ("extract: {positon: last}", "extract.positon", "position"),
        ("probe: {fold: 3}", "probe.fold", "folds"),
        ("report: {htlm: true}", "report.htlm", "html"),
        ("models: [{id: a, dtpye: auto}]", "models.0.dtpye", "dtype"),
        ("datasets: [capitals, {name: b, tempalte: x}]", "datasets.1.tempalte", "template"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(write, text: str, key: str, suggestion: str) -> None:
    raw = yaml.safe_load(MINIMAL) | yaml.safe_load(text)
    path = write(yaml.safe_dump(raw))
    assert problem(path) == f"{path}: {key}: unknown key; did you mean '{suggestion}'?"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("probe: {l2: strong}", "probe.l2: 'strong' is not allowed: should be a valid number, or "
                                "'auto'"),
        ("probe: {l2: 0}", "probe.l2: 0 is not allowed: should be from 1e-12 to 1e12, or 'auto'"),
        ("probe: {l2: 1.0e-300}", "probe.l2: 1e-300 is not allowed: should be from 1e-12 to 1e12"),
        ("probe: {l2: 1.0e+300}", "probe.l2: 1e+300 is not allowed: should be from 1e-12 to 1e12"),
        ("probe: {l2: .nan}", "probe.l2: nan is not allowed: should be from 1e-12 to 1e12"),
        ("probe: {l2: true}", "probe.l2: True is not allowed: should be a valid number, or 'auto'"),
        ("probe: {l2: .inf}", "probe.l2: inf is not allowed"),
        ("probe: {l2: [1]}", "probe.l2: should be a valid number, or 'auto'"),
        ("probe: {folds: 1}", "probe.folds: 1 is not allowed"),
        ("probe: {seed: -1}", "probe.seed: -1 is not allowed"),
        ("probe: {seed: 4294967296}", "probe.seed: 4294967296 is not allowed"),
        ("probe: {controls: [majorty]}", "probe.controls.0: 'majorty' is not allowed: should be "
                                         "'majority', 'bag_of_words', "),
        ("extract: {position: middle}", "extract.position: 'middle' is not allowed: "
                                        "should be last, first, mean, one of them with :FIELD"),
        ("extract: {position: [last, 3]}", "extract.position.1: 3 is not allowed"),
        ("extract: {layers: [-1]}", "extract.layers.0: -1 is not allowed"),
        ("extract: {layers: []}", "extract.layers: should have at least 1 item"),
        ("extract: {layers: [3, 1, 3]}", "extract.layers: a number occurs twice"),
        ("probe: {controls: majority}", "probe.controls: 'majority' is not allowed: should be a "
                                        "list"),
        ("probe: 5", "probe: 5 is not allowed: should be a mapping"),
        ("extract: {site: resid}", "extract.site: 'resid' is not allowed: no site; did you mean "
                                   "'residual'?"),
        ("models: []", "models: should have at least 1 item"),
        ("models: [3]", "models.0: 3 is not allowed: should be a mapping"),
        ("models: [{dtype: auto}]", "models.0.id: missing"),
        ("models: [{id: m, dtype: fp16}]", "models.0.dtype: 'fp16' is not allowed"),
        ("models: [{id: m, name: a/b}]", "models.0: 'a/b' cannot name a folder"),
        ("datasets: [{n: 3}]", "datasets.0: needs a name, a path or hub"),
        ("datasets: [{name: x, as: ../up}]", "datasets.0: '..' cannot name a folder"),
        ("datasets: [{name: x, text: t}]", "datasets.0: text names a column of a file"),
        ("datasets: [{path: a.csv, options: {x: 1}}]", "datasets.0: options belong to a known"),
        ("datasets: [{name: x, template: no}]", "datasets.0.template: False is not allowed"),
        ("datasets: [{name: x, template: '{{text}}'}]", "has no field; it needs at least {text}"),
        ("datasets: [{name: x, template: '{text'}]", "datasets.0.template: '{text' is not allowed"),
        ("datasets: [{name: x, options: {day: 2020-01-01}}]", "datasets.0.options.day: "),
        ("name: ../up", "name: '../up' is not allowed: should be a word of letters"),
        ("name: ..", "name: '..' is not allowed"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_its_key_and_what_would_be_right(write, text: str, words: str) -> None:
    raw = yaml.safe_load(MINIMAL) | yaml.safe_load(text)
    said = problem(write(yaml.safe_dump(raw)))
    assert words in said
    assert "\n" not in said


def test_every_problem_is_said_at_once(write) -> None:
    said = problem(write(MINIMAL + "probe: {folds: 1, sede: 3}\nextract: {site: x}\n"))
    assert [line.split(": ")[1] for line in said.splitlines()] == [
        "extract.site", "probe.folds", "probe.sede",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [org/a, other/a]\ndatasets: [capitals]", "2 models are called 'a'"),
        ("models: [m]\ndatasets: [capitals, capitals]", "2 datasets are called 'capitals'"),
    ],
)
def test_two_of_the_same_name_must_be_told_apart(write, text: str, words: str) -> None:
    assert words in problem(write(text))


def test_the_same_dataset_twice_under_two_names_is_allowed(write) -> None:
    path = write("models: [m]\ndatasets: [capitals, {name: capitals, n: 50, as: fewer}]")
    assert [d.title for d in load_config(path).datasets] == ["capitals", "fewer"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty, or not a mapping"),
        ("# only a comment\n", "empty, or not a mapping"),
        ("- a\n- b\n", "empty, or not a mapping"),
        ("just words", "empty, or not a mapping"),
        ("models: [a\ndatasets: [b]\n", "not valid YAML: "),
        ("models: [a]\n\tdatasets: [b]\n", "not valid YAML: "),
        ("models: [a]\ndatasets: [b]\nprobe: {folds: 3}\nprobe: {seed: 1}", "line 4"),
        ("models: [a]\ndatasets: [b]\nprobe: {folds: 3, folds: 4}", "the key 'folds' occurs twice"),
        ("name: 2020-13-45", "not valid YAML: "),
        ("name: !!bool maybe", "not valid YAML: "),
        ("name: !!python/object:os.system x", "not valid YAML: "),
        ("models: " + 5000 * "[", "not valid YAML: "),
        ("models: &m [*m]\ndatasets: [b]", "models.0"),
    ],
)
def test_what_is_no_config_is_refused(write, text: str, words: str) -> None:
    path = write(text)
    said = problem(path)
    assert said.startswith(f"{path}: ")
    assert words in said
    assert "\n" not in said


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"models: [caf\xe9]\n")
    assert "not valid YAML: 'utf-8' codec" in problem(path)


def test_yaml_merge_keys_may_override(write) -> None:
    text = "models: [&m {id: a, dtype: float32}, {<<: *m, id: b}]\ndatasets: [capitals]"
    assert [(m.id, m.dtype) for m in load_config(write(text)).models] == [
        ("a", "float32"), ("b", "float32"),
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["absent.yaml", "quickstrat", "x" * 300, "a\0b", "~nobody-here/c"])
def test_a_missing_file_is_said_to_be_missing(path: str) -> None:
    assert "no such file" in problem(path)


def test_a_misspelt_shipped_config_is_suggested() -> None:
    assert "did you mean 'quickstart'?" in problem("quickstrat")


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    assert "is a folder" in problem(tmp_path)


KEYS = sorted(
    {
        key
        for section in (RunConfig, ModelConfig, DatasetConfig, PerturbConfig)
        for key in section.model_fields
    }
    | {"as", "folds", "l2", "controls", "position", "html"}
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.binary(max_size=5)
    | st.sampled_from(["capitals", "my.csv", "auto", "majority", "residual", "{text}", "~x", ".."])
)
STRUCTURES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5) | st.integers(), inner)
    ),
    max_leaves=12,
)
PERTURBATIONS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["prefix_noise", "typos", "case", "negation", "paraphrase_template"])},
    optional=dict.fromkeys(set(PerturbConfig.model_fields) - {"kind"}, SCALARS),
)
DATASETS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(set(DatasetConfig.model_fields) - {"alias"}, SCALARS)
    | {"perturb": PERTURBATIONS | SCALARS, "name": st.sampled_from(["capitals", "a/b", "a//b"])},
)
CONFIGS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("name", "include", "extract", "probe", "report"), STRUCTURES)
    | {"models": st.just(["m"]) | st.lists(STRUCTURES, max_size=2) | STRUCTURES}
    | {
        "datasets": st.just(["capitals"]) | st.lists(DATASETS | STRUCTURES, max_size=2) | STRUCTURES
    },
)


@settings(deadline=None, max_examples=100)
@given(structure=CONFIGS | STRUCTURES, limit=st.none() | st.integers(-1, 5))
def test_any_structure_is_a_config_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, structure: Any, limit: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(structure), encoding="utf-8")
    try:
        config = load_config(path, limit=limit)
    except UserError:
        return
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(path).to_yaml() == config.to_yaml()


@settings(deadline=None, max_examples=100)
@given(
    text=st.text(max_size=40)
    | st.text(alphabet="!&*:{}[]-,|>'\"#%@ \nab01." + string.whitespace, max_size=40)
)
def test_any_text_is_a_config_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        load_config(path)


@settings(deadline=None, max_examples=100)
@given(
    key=st.lists(st.sampled_from([*KEYS, "0", "1", "²", ""]) | st.text(max_size=4), max_size=4),
    value=st.text(max_size=15),
)
def test_any_setting_gives_a_config_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, key: list[str], value: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "set.yaml"
    path.write_text(MINIMAL)
    with suppress(UserError):
        load_config(path, [f"{'.'.join(key)}={value}"])


def test_every_key_says_what_it_is() -> None:
    sections = [
        kind for kind in Section.__subclasses__() if kind.__module__.startswith(schema.__name__)
    ]
    assert RunConfig in sections
    assert not [
        f"{section.__name__}.{key}"
        for section in sections
        for key, field in section.model_fields.items()
        if not field.description
    ]
