"""Job files: strict, all errors at once, each with its place and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from heliostat.errors import SpecError, UserError
from heliostat.spec.load import load_job, merge_patch
from heliostat.spec.schema import job_schema, site_schema
from heliostat.spec.yaml import parse_text
from heliostat.storage.promoted import parse_name
from heliostat.storage.runs import Storage
from tests.conftest import job_text


def problems_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_job(path)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_every_problem_is_told_at_once_with_place_and_nearest_key(tmp_path):
    text = """name: x
data:
  source: a
  target: late
  task: binary
  features:
    "dep_*": {type: number, scal: standard}
  split: {method: random, tst: 0.1}
model: {kind: xgboost, max_dept: 6}
train: {rounds: on, optimizer: {learning_rate: -1}}
tune:
  trials: 3
  scheduler: {name: asha, grace: 1}
  space:
    model.learning_rate: {low: 0.1, high: 0.3, lg: true}
nme: 3
"""
    assert problems_of(tmp_path, text) == [
        "job.yaml:7:29: data.features.dep_*.scal: unknown key; did you mean `scale`?",
        "job.yaml:8:27: data.split.tst: unknown key; did you mean `test`?",
        "job.yaml:9:24: model.max_dept: unknown key of a model of kind `xgboost`; "
        "did you mean `max_depth`?",
        "job.yaml:10:9: train.rounds: `on`: input should be a valid integer",
        "job.yaml:10:33: train.optimizer.learning_rate: `-1`: input should be greater than 0",
        "job.yaml:13:27: tune.scheduler.grace: unknown key; did you mean `grace_period`?",
        "job.yaml:15:48: tune.space.model.learning_rate.lg: unknown key; did you mean `log`?",
        "job.yaml:16:1: nme: unknown key; did you mean `name`?",
    ]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("{kind: xgbost}", "model: `xgbost` is not known; did you mean `xgboost`?"),
        ("{max_depth: 3}", "model: `kind` is required here"),
        ("{kind: mlp, hidden: [0]}", "model.hidden.0: `0`: input should be greater than 0"),
        ("{kind: mlp, max_depth: 3}", "model.max_depth: unknown key of a model of kind `mlp`"),
    ],
)
def test_model_variants(tmp_path, model, sentence):
    (problem,) = problems_of(tmp_path, job_text(Path("a"), model=f"model: {model}"))
    assert sentence in problem


def test_of_a_value_with_two_forms_only_the_one_that_was_written_is_told(tmp_path):
    text = job_text(Path("a"), scale="scale: {workers: {min: 3, max: 2}}")
    (problem,) = problems_of(tmp_path, text)
    assert problem.endswith("scale.workers: min = 3 is more than max = 2")
    text = job_text(Path("a"), train="train: {rounds: 4, loss: {name: focal, gama: 2}}")
    (problem,) = problems_of(tmp_path, text)
    assert "train.loss.gama: unknown key; did you mean `gamma`?" in problem
    (problem,) = problems_of(
        tmp_path, job_text(Path("a"), model="cluster: {address: lab}\nmodel: {kind: mlp}")
    )
    assert "cluster.address: `lab`: string should match pattern" in problem
    problems = problems_of(tmp_path, job_text(Path("a"), model="cluster: 3\nmodel: {kind: mlp}"))
    assert all("cluster: `3`: input should be a valid" in problem for problem in problems)


def test_duplicate_keys_tags_and_broken_yaml(tmp_path):
    assert "key `name` stands here twice" in problems_of(tmp_path, "name: a\nname: b\n")[0]
    assert "tag" in problems_of(tmp_path, "name: !!python/object:os.system x\n")[0]
    assert problems_of(tmp_path, "name: [a\n")[0].startswith("job.yaml:2:1: is no YAML")
    assert "is not a finite number" in problems_of(tmp_path, "seed: .inf\n")[0]


def test_an_alias_bomb_is_refused():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for i in range(1, 9):
        bomb += f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n"
    with pytest.raises(SpecError, match="more than 100,000 values"):
        parse_text(bomb, "bomb", Path())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: " + "[" * 10_000 + "]" * 10_000, "more than 64 levels deep"),
        ('{"a": ' * 10_000 + "1" + "}" * 10_000, "more than 64 levels deep"),
        ("- " * 10_000 + "1", "more than 64 levels deep"),
        ("a: &a [*a]", "does an alias refer to itself?"),
        ("a: &a {b: *a}", "does an alias refer to itself?"),
        ("a: " + "x" * 2**20, "holds more than 1,048,576 bytes"),
        ("a: " + "9" * 5_000, "a number of 5,000 digits is too long"),
        ('a: "\\ud800"', "half of a surrogate pair"),
        ("a: !!python/tuple [b]", "is not allowed"),
    ],
)  # fmt: skip
def test_what_is_too_deep_or_too_large_is_refused_in_a_sentence(tmp_path, text, sentence):
    assert sentence in problems_of(tmp_path, text)[0]
    with pytest.raises(SpecError):
        parse_text(text, "--set", Path())


def test_values_are_counted_while_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("heliostat.spec.yaml.MAX_NODES", 1_000)
    (problem,) = problems_of(tmp_path, "a: [" + "{b: c}, " * 400 + "]")
    assert problem.startswith("job.yaml:1:") and problem.endswith(": has more than 1,000 values")


def test_a_setting_is_no_deeper_than_a_file(make_job):
    with pytest.raises(SpecError, match="more than 64 levels deep"):
        load_job(make_job(), settings=[".".join("a" * 10_000) + "=1"])


def test_an_endless_file_is_not_read_to_its_end():
    with pytest.raises(SpecError, match="holds more than 1,048,576 bytes"):
        load_job("/dev/zero")


def test_no_name_ends_in_a_line_break(make_job, tmp_path):
    for setting in ['name="a\\n"', 'secrets=["A\\n"]', 'model.class="a.b:C\\n"']:
        kind = ["model={kind: custom, class: 'a.b:C'}", "train={}"] if "class" in setting else []
        with pytest.raises(SpecError, match="must be up to 30|should match pattern"):
            load_job(make_job(train=""), settings=[*kind, setting])
    for setting in [
        'scale.resources.memory="1Gi\\n"',
        'data.split={method: time, column: when, gap: "7d\\n"}',
    ]:
        with pytest.raises(SpecError, match="is no size|neither a fraction nor a duration"):
            load_job(make_job(), settings=[setting])
    with pytest.raises(UserError, match="must be up to 63 letters"):
        Storage(tmp_path).run("small", "one\n")
    with pytest.raises(UserError, match="must be MODEL@ALIAS"):
        parse_name("flights@best\n")


def test_one_word_stands_for_a_mapping_to_which_others_are_added(make_job):
    path = make_job(
        model="model: mlp", train="train: {schedule: cosine, optimizer: sgd, loss: focal}"
    )
    later = path.parent / "later.yaml"
    later.write_text("train: {schedule: {warmup_steps: 3}}\ndata: {split: stratified}\n")
    job = load_job(path, later, settings=["train.loss.gamma=3.0", "data.split.test=0.2"])
    train = job.spec.train
    assert (train.schedule.name, train.schedule.warmup_steps) == ("cosine", 3)
    assert (train.optimizer.name, train.loss.name, train.loss.gamma) == ("sgd", "focal", 3.0)
    assert (job.spec.data.split.method, job.spec.data.split.test) == ("stratified", 0.2)
    trial = job.replace({"train.schedule": "linear", "train.schedule.warmup_steps": 4})
    assert (trial.spec.train.schedule.name, trial.spec.train.schedule.warmup_steps) == ("linear", 4)
    Draft202012Validator(job_schema()).validate({**job.value, "model": "mlp"})


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"model": "model: mlp", "train": "train: {lr: 1.0e-3}"}, "mean `train.optimizer.learning_rate`?"),
        ({"train": "train: {lr: 0.1}"}, "train.lr: unknown key; did you mean `model.learning_rate`?"),
        ({"train": "train: {num_boost_round: 9}"}, "did you mean `train.rounds`?"),
        ({"model": "model: mlp", "train": "n_epochs: 4"}, "did you mean `train.epochs`?"),
        ({"model": "model: {kind: forest, random_state: 1}"}, "did you mean `seed`?"),
        ({"name": "name: My Job No. 2"}, "for example `my-job-no-2`"),
        ({"name": "name: 2024-Übung-"}, "for example `job-2024-ubung`"),
        ({"model": "model: mlp", "train": "train: {schedule: cosin}"}, "did you mean `cosine`?"),
    ],
)  # fmt: skip
def test_what_was_meant_is_named(tmp_path, parts, sentence):
    assert sentence in "\n".join(problems_of(tmp_path, job_text(Path("a"), **parts)))


def test_yaml_is_1_2():
    text = "a: on\nb: no\nc: 1e-3\nd: 0o17\ne: 1_000\nf: ~\ng: 2013-01-01\nh: true"
    value = parse_text(text, "x", Path()).value
    assert value["a"] == "on" and value["b"] == "no" and value["c"] == 0.001
    assert value["f"] is None and value["g"] == "2013-01-01" and value["h"] is True
    assert value["d"] == 15


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text("abc:#-[]{}'\" é\n", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
def test_json_is_read_as_it_is(value):
    if value == {} or value is None:
        return
    assert parse_text(json.dumps(value), "x", Path()).value == value


@given(json_values, json_values)
def test_merging_a_value_onto_itself_or_nothing(value, other):
    assert merge_patch(merge_patch(other, value), value) == merge_patch(other, value)
    assert merge_patch(value, {}) == (value if isinstance(value, dict) else {})


def test_files_merge_in_order_and_settings_come_last(tmp_path, table):
    base, spot = tmp_path / "base.yaml", tmp_path / "sub" / "spot.yaml"
    base.write_text(
        job_text(table, seed="seed: 1", scale="scale: {workers: 2, resources: {cpu: 2}}")
    )
    spot.parent.mkdir()
    spot.write_text("scale: {workers: 4}\nseed: 2\nstorage: here\n")
    job = load_job(base, spot, settings=["seed=5", "model.max_depth=9"])
    assert (job.spec.seed, job.spec.scale.workers, job.spec.scale.resources.cpu) == (5, 4, 2)
    assert job.spec.model.max_depth == 9
    assert job.spec.storage == str(spot.parent / "here")  # relative to the file that says so


def test_a_wrong_setting_names_itself(make_job):
    with pytest.raises(SpecError, match="--set train.round=3: train.round: unknown key"):
        load_job(make_job(), settings=["train.round=3"])
    with pytest.raises(SpecError, match="write it as key=value"):
        load_job(make_job(), settings=["train"])


def test_schemas_know_every_key():
    schema = job_schema()
    assert schema["title"] == "heliostat job file"
    assert {"data", "model", "train", "scale", "tune", "limits"} <= schema["properties"].keys()
    assert "clusters" in site_schema()["properties"]
