"""Plans: every sum, every refusal, before a worker starts."""

from __future__ import annotations

import pytest

from heliostat.errors import PlanError, SpecError, UnavailableError, UserError
from heliostat.plan.pipeline import MicroBatches
from heliostat.plan.plan import plan_job
from heliostat.plan.text import plan_text
from heliostat.spec.load import load_job

NETWORK = {"model": "model: {kind: mlp}", "train": "train: {epochs: 3, batch_size: 100}"}


def refusal(path, *settings: str) -> str:
    with pytest.raises(UserError) as caught:
        plan_job(load_job(path, settings=settings))
    return str(caught.value)


def test_a_plan_shows_its_arithmetic(make_job):
    plan = plan_job(load_job(make_job(**NETWORK), settings=["scale.workers=4"]))
    text = plan_text(plan)
    assert "840 train + 180 validation + 180 test, each at most" in text
    assert "4 workers = 4 data x 1 shard x 1 tensor x 1 pipeline" in text
    assert "100 rows = 4 data x 25 rows" in text
    assert "27 = 3 epochs x 9" in text
    assert "4 CPUs in all = 4 workers x 1" in text
    value = plan.to_json()
    assert value["rows"] == {"train": 840, "validation": 180, "test": 180, "exact": False}


def test_counts_are_exact_where_nothing_can_be_dropped(make_job):
    plan = plan_job(load_job(make_job(), settings=["data.clean.missing_target=error"]))
    assert plan.counts is not None and plan.counts.exact


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["data.target=lat"], "the source has no column `lat`; did you mean `late`?"),
        (["data.features.colour=category"], "no column `colour`; did you mean `color`?"),
        (["data.target=color", "data.task=regression"], "is string; a regression needs numbers"),
        (["data.features.color=number"], "column `color` is string, not a number"),
        (["data.features.when=number"], "column `when` is timestamp[ms], not a number"),
        (["data.features.x={type: text}"], "column `x` is float, not a text"),
        (["data.features.color={type: category, buckets: 8, min_count: 2}"], "`buckets` keeps no values"),
        (["data.features.late=number"], "the target cannot be an input too"),
        (["data.split.validation=0.6", "data.split.test=0.5"], "leave no row to train on"),
        (["data.split.validation=0.0001"], "the validation side is empty: 0.0001 of 1200 rows"),
        (["tune={trials: 2, fuse: true, deterministic: true, space: {model.max_depth: [1]}}"],
         "equals itself alone within rounding, not bit for bit"),
        (["tune={trials: 2, space: {model.max_depth: {low: 1, high: 3, when: {model.kind: tree}}}}"],
         "is no key of the space above it"),
        (["objective={metric: log_loss, goal: max}"], "of `log_loss`, lower is better; write `min`"),
        (["objective={metric: auc, goal: min}"], "of `auc`, higher is better; write `max`"),
        (["objective=rmse"], "metric `rmse` means nothing for task `binary`"),
        (["metrics=[acuracy]"], "metric `acuracy` is not known"),
        (["train.epochs=3"], "`epochs` and `rounds` both give the length"),
        (["train.batch_size=3"], "model of kind `xgboost` does not use it"),
        (["scale.workers=4", "scale.parallel.shard=3"], "does not divide workers = 4"),
        (["model={kind: tree}", "train={}", "scale.workers=2"], "by scikit-learn on one worker"),
        (["model={kind: custom, class: a.b:C}", "train={}"], "needs `code: {path: ...}`"),
        (["model={kind: linear, alpha: 2.0}", "train={}"], "penalty `l2` of a linear model for classes"),
        (["data.positive=true", "data.task=multiclass", "data.target=kind"], "no positive class"),
    ],
)  # fmt: skip
def test_what_does_not_add_up_is_refused(make_job, settings, sentence):
    needs_no_train = "train={}" in settings
    path = make_job(train="") if needs_no_train else make_job()
    assert sentence in refusal(path, *[s for s in settings if s != "train={}"])


@pytest.mark.parametrize(
    "setting",
    [
        "data.features.color={type: image}", "data.features.color={type: audio}",
        "track.mlflow=http://x",
    ],
)  # fmt: skip
def test_parts_that_are_not_built_yet_are_refused_by_name(make_job, setting):
    with pytest.raises(UnavailableError, match="not available yet"):
        plan_job(load_job(make_job(), settings=[setting]))


@pytest.mark.parametrize(
    "setting",
    ["model.lora={rank: 4}"],
)  # fmt: skip
def test_network_parts_that_are_not_built_yet(make_job, setting):
    with pytest.raises(UnavailableError, match="not available yet"):
        plan_job(load_job(make_job(**NETWORK), settings=["scale.workers=2", setting]))


def test_a_fit_that_cannot_hold_in_memory_is_refused_with_the_sum(make_job):
    path = make_job(model="model: {kind: svm}", train="")
    text = refusal(path, "scale.resources.memory=1K")
    assert "840 rows x 4 columns x 8 bytes x 4 copies = 105.0 KiB" in text
    assert "take a model that reads batches: xgboost or mlp" in text


def test_exact_names_come_before_globs_and_the_first_glob_wins(make_job, table):
    data = f"data:\n  source: {table}\n  target: late\n  task: binary\n  features:\n"
    data += '    "*o*": category\n    "c*": number\n    count: number\n    "?": auto'
    plan = plan_job(load_job(make_job(data=data)))
    assert {c.name: c.kind for c in plan.columns.inputs} == {
        "x": "number", "z": "number", "count": "number", "color": "category", "amount": "category",
    }  # fmt: skip


def test_a_sweep_checks_every_corner_of_its_space(make_job):
    tune = "tune: {trials: 4, space: {model.max_depth: [2, deep], model.depth: [1], scale.workers: [1]}}"
    text = refusal(make_job(tune=tune))
    assert "tune.space.model.max_depth = deep" in text
    assert "tune.space.model.depth = 1" in text
    assert "only data, model, train and seed can be searched" in text


def test_errors_are_of_one_kind_each(make_job):
    assert issubclass(SpecError, UserError) and issubclass(PlanError, UserError)
    assert UserError.exit_status == 2


@pytest.mark.parametrize(
    ("rows", "size", "stages", "count", "each"),
    [
        (80, "auto", 2, 8, 10),
        (81, "auto", 2, 8, 11),
        (3, "auto", 2, 3, 1),
        (80, 17, 2, 5, 17),
        (80, 80, 4, 4, 80),
    ],
)
def test_micro_batches_fill_a_pipeline_and_hold_all_rows(rows, size, stages, count, each):
    micro = MicroBatches.of(rows, size, stages)
    assert (micro.count, micro.rows) == (count, each)
    assert micro.count >= stages and micro.count * micro.rows >= rows
    assert micro.waiting(stages) == (stages - 1) / (count + stages - 1)


def test_a_pipeline_s_sum_is_shown(make_job):
    plan = plan_job(
        load_job(
            make_job(**NETWORK),
            settings=["scale={workers: 2, parallel: {pipeline: 2}}", "train.batch_size=80"],
        )
    )
    assert "2 stages, 8 micro-batches of 10 rows: each waits 11% of a step" in plan_text(plan)


def write_indexed(folder, named: str | None = None):
    """A table with an index, as pandas writes it; its name says nothing where `named` is one."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    index = named or "__index_level_0__"
    table = pa.table({"a": range(40), index: range(40), "late": [True, False] * 20})
    notes = json.dumps({"index_columns": [index, {"kind": "range", "name": None}]})
    folder.mkdir()
    pq.write_table(table.replace_schema_metadata({"pandas": notes}), folder / "a.parquet")
    return folder


@pytest.mark.parametrize("name", ["__index_level_0__", "id"])
def test_the_index_of_a_table_is_an_input_only_by_its_name(make_job, tmp_path, name):
    source = write_indexed(tmp_path / "d", None if name.startswith("_") else name)

    def inputs(features: str) -> list[str]:
        data = f"data: {{source: {source}, target: late, task: binary{features}}}"
        plan = plan_job(load_job(make_job(data=data)))
        chosen = [column.name for column in plan.columns.inputs]
        assert any("index of a table" in note for note in plan.notes) == (name not in chosen)
        return chosen

    assert inputs("") == inputs(', features: {"*": auto}') == inputs(', features: {"?*": number}')
    assert inputs(', features: {"*": auto}') == ["a"]
    assert inputs(f", features: {{{name}: number}}") == [name]
    data = f'data: {{source: {source}, target: late, task: binary, features: {{"{name[:-1]}*": auto}}}}'
    assert f"matches only `{name}`, the index" in refusal(make_job(data=data))


def test_how_delimited_text_is_read_is_checked(make_job, tmp_path, table):
    (tmp_path / "a.csv").write_text(
        "rent,age,code,kind,y\n" + '"1,200",?,007,?,1\n"96,456",30,7,b,2\n12,31,7,b,3\n' * 5
    )

    def job(features: str = "{}", read: str = "{}", source=tmp_path / "a.csv", target: str = "y"):
        return make_job(
            data=f"data: {{source: {source}, read: {read}, target: {target}, task: regression, "
            f"features: {features}}}"
        )

    text = refusal(job('{"*": auto}'))
    assert "column `rent` is read as text, but its values are numbers with `,` between" in text
    assert 'write `data.read: {thousands: ","}`, or `rent: category` to keep it text' in text
    assert "column `age` is read as text, but its values are numbers, except for `?`" in text
    assert 'write `data.read: {missing: ["?"]}`' in text
    assert "`code`" not in text and "`kind`" not in text
    text = refusal(job("{code: number}"))
    assert (
        "`code` is string, not a number; a number would not keep values like `007` as they are: write `code: category`"
        in text
    )
    text = refusal(job("{code: auto}", target="rent"))
    assert "`rent` is string; a regression needs numbers; its values are numbers with `,`" in text
    plan = plan_job(load_job(job("{kind: auto, code: auto, rent: category}")))
    assert [note for note in plan.notes if "`kind`" in note and '{missing: ["?"]}' in note]
    read = '{thousands: ",", missing: ["?"]}'
    better = plan_job(load_job(job('{"*": auto}', read)))
    kinds = {column.name: column.kind for column in better.columns.inputs}
    assert kinds == {"rent": "number", "age": "number", "code": "category", "kind": "category"}
    assert not better.notes and better.prepared_digest != plan.prepared_digest
    assert "data.read: is for delimited text; the source is parquet" in refusal(
        job('{"*": auto}', read, source=table, target="amount")
    )


def test_a_features_exact_name_goes_before_any_glob(make_job, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "d").mkdir()
    names = ["temp[C]", "tempC", "a*", "ab", "is?", "é[1].*"]
    pq.write_table(
        pa.table({name: range(9) for name in names} | {"y": range(9)}),
        tmp_path / "d" / "a.parquet",
    )

    def inputs(*features: str) -> list[str]:
        listed = ", ".join(f'"{name}": number' for name in features)
        data = (
            f"data: {{source: {tmp_path}/d, target: y, task: regression, features: {{{listed}}}}}"
        )
        plan = plan_job(load_job(make_job(data=data)))
        return [column.name for column in plan.columns.inputs]

    for name in names:
        assert inputs(name) == [name]
    assert inputs("temp[[]C]") == ["temp[C]"] and inputs("temp[ABC]") == ["tempC"]
    assert inputs("a*", "temp[C]") == ["temp[C]", "a*"] and inputs("a?") == ["a*", "ab"]
