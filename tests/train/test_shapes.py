"""Cut a model in any way: the maths stays. One process equals data, shard, tensor, pipeline, and
their products.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from heliostat.errors import PlanError
from heliostat.storage.lease import Lease
from heliostat.train.assignment import RunPlace
from tests.data.packing import plan_of

pytestmark = pytest.mark.slow

MODELS = {
    "mlp": "{kind: mlp, hidden: [16, 16], residual: true, dropout: 0.2}",
    "tabular_transformer": "{kind: tabular_transformer, d_model: 16, nhead: 4, dropout: 0.2}",
}
GPT = "{kind: gpt, max_tokens: 24, hidden_size: 32, num_attention_heads: 4, num_hidden_layers: 2,"
GPT += " num_key_value_heads: 2, intermediate_size: 64, dropout: 0.2}"
# 840 training rows: the eleventh batch has 40, and the second epoch begins after it.
TRAIN = "train: {steps: 14, batch_size: 80, validate_every: 7, clip_norm: 1.0,\n"
TRAIN += "  optimizer: {learning_rate: 0.01}}"
SHAPES = {
    "data 2": (2, {}),
    "data 4": (4, {}),
    "shard 2": (2, {"shard": 2}),
    "tensor 2": (2, {"tensor": 2}),
    "data 2 x shard 2": (4, {"shard": 2}),
    "data 2 x tensor 2": (4, {"tensor": 2}),
    "shard 2 x tensor 2": (4, {"shard": 2, "tensor": 2}),
    "pipeline 2": (2, {"pipeline": 2}),
    "data 2 x pipeline 2": (4, {"pipeline": 2}),
    "shard 2 x pipeline 2": (4, {"shard": 2, "pipeline": 2}),
    "tensor 2 x pipeline 2": (4, {"tensor": 2, "pipeline": 2}),
}


def parts(model: str, size: int = 1, degrees: dict | None = None, **scale: object) -> dict:
    settings = {"workers": size, "parallel": degrees or {}} | scale
    return {"model": f"model: {MODELS[model]}", "train": TRAIN, "scale": f"scale: {settings}"}


def text_parts(folder: Path, size: int = 1, degrees: dict | None = None, **scale: object) -> dict:
    """A language model of short texts with prompts; the last batch of an epoch is not full."""
    source = folder / "texts.parquet"
    if not source.exists():
        rng = random.Random(5)
        words = ["sun", "mirror", "field", "tower", "beam", "turns"]
        asks = [" ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(150)]
        table = {"ask": asks, "say": [ask[::-1] for ask in asks]}
        pq.write_table(pa.table(table), source)
    data = f"data: {{source: {source}, target: say, task: language, features: {{ask: text}}}}"
    train = TRAIN.replace("batch_size: 80", "batch_size: 20")
    return parts("mlp", size, degrees, **scale) | {
        "data": data, "model": f"model: {GPT}", "train": train,
    }  # fmt: skip


def weights(folder) -> dict[str, np.ndarray]:
    return load_file(folder / "weights.safetensors")


def assert_close(one, other, tolerance: float = 1e-3) -> None:
    """Every parameter, by its own largest value: AdamW makes much of gradients that are nearly
    nothing.
    """
    for name, values in weights(one).items():
        here = weights(other)[name]
        assert np.abs(here - values).max() <= tolerance * max(np.abs(values).max(), 0.1), name


@pytest.mark.parametrize("model", MODELS)
def test_every_shape_is_the_same_maths(trained, model):
    losses, metrics, alone = trained(1, name="alone", **parts(model))
    assert len(losses) == 14 and losses[-1] < losses[0]
    for name, (size, degrees) in SHAPES.items():
        others, other_metrics, folder = trained(size, name=name, **parts(model, size, degrees))
        np.testing.assert_allclose(others, losses, rtol=1e-4, err_msg=name)
        assert_close(alone, folder)
        assert other_metrics["test"]["auc"] == pytest.approx(metrics["test"]["auc"], abs=1e-3)
    small = parts(model, 4, {"shard": 2, "tensor": 2}, micro_batch_size=17)
    others, _, _ = trained(4, name="micro", **small)
    np.testing.assert_allclose(others, losses, rtol=1e-4)


def test_a_language_model_is_the_same_in_every_shape(trained, tmp_path):
    losses, metrics, alone = trained(1, name="alone", **text_parts(tmp_path))
    assert len(losses) == 14 and losses[-1] < losses[0]
    for name, (size, degrees) in SHAPES.items():
        job = text_parts(tmp_path, size, degrees)
        others, other_metrics, folder = trained(size, name=name, **job)
        np.testing.assert_allclose(others, losses, rtol=1e-4, err_msg=name)
        assert_close(alone, folder)
        expected = pytest.approx(metrics["test"]["log_loss"], rel=1e-3)
        assert other_metrics["test"]["log_loss"] == expected
    small = text_parts(tmp_path, 2, micro_batch_size=3, activation_checkpointing=True)
    others, _, folder = trained(2, name="micro", **small)
    np.testing.assert_allclose(others, losses, rtol=1e-4)
    assert_close(alone, folder)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_is_resumed_bit_for_bit_and_in_another_shape(trained, tmp_path, shape):
    size, degrees = SHAPES[shape]
    stop = random.Random(shape).randint(4, 11)
    job = parts("mlp", size, degrees, checkpoint={"every_steps": 5})

    def place(name: str) -> RunPlace:
        lease = Lease.acquire(tmp_path / name / "lease")
        assert lease is not None
        return RunPlace(str(tmp_path / name / "c"), str(tmp_path / name / "lease"), lease.token)

    losses, _, whole = trained(size, place("whole"), name="whole", **job)
    again = place("cut")
    first, nothing, _ = trained(size, again, name="cut", stop_at=stop - 1, **job)
    assert nothing is None and len(first) == stop
    kept = sorted(Path(again.checkpoints).iterdir())[-1]
    assert kept.name == f"step-{stop:09d}"
    if degrees:  # every rank has written what it holds, and nobody the whole
        parts_of = {file.name.split("-model")[0] for file in kept.glob("*.safetensors")}
        assert parts_of == {f"shard-{rank + 1:05d}" for rank in range(size)}
    shutil.copytree(again.checkpoints, tmp_path / "begun")
    rest, _, resumed = trained(size, again, name="cut", **job)
    assert [*first, *rest] == losses
    for name, values in weights(whole).items():
        assert np.array_equal(weights(resumed)[name], values), name
    others = {"alone": (1, {}), "shards": (4, {"shard": 4}), "stages": (2, {"pipeline": 2})}
    for later, (number, cut) in others.items():
        other = place(later)
        shutil.copytree(tmp_path / "begun", other.checkpoints)
        here = parts("mlp", number, cut, checkpoint={"every_steps": 5})
        rest, _, folder = trained(number, other, name=later, **here)
        np.testing.assert_allclose([*first, *rest], losses, rtol=1e-4)
        assert_close(whole, folder)


@pytest.mark.parametrize("storage_folder", ["object store"], indirect=True)
def test_parts_of_a_checkpoint_go_to_an_object_store(trained, storage_folder):
    store = storage_folder
    job = parts("mlp", 2, {"shard": 2}, checkpoint={"every_steps": 5})
    losses, _, whole = trained(2, name="whole", **job)
    lease = Lease.acquire(store / "lease")
    assert lease is not None
    place = RunPlace(str(store / "c"), str(store / "lease"), lease.token)
    first, _, _ = trained(2, place, name="cut", stop_at=7, **job)
    kept = sorted(store.glob("c/step-*"), key=lambda folder: folder.name)[-1]
    names = [path.name for path in kept.objects()]
    assert any(name.startswith("shard-00002-model") for name in names)
    stray = store / "c" / "step-000000010" / "shard-00009-model.safetensors"
    stray.write_bytes(b"of a writer that was killed")
    rest, _, resumed = trained(2, place, name="cut", **job)
    assert (stray.parent / "manifest.json").exists() and not stray.exists()
    assert [*first, *rest] == losses
    for name, values in weights(whole).items():
        assert np.array_equal(weights(resumed)[name], values), name


def test_a_whole_model_is_cut_later_and_the_best_is_found_in_parts(trained, tmp_path):
    lease = Lease.acquire(tmp_path / "lease")
    assert lease is not None
    place = RunPlace(str(tmp_path / "c"), str(tmp_path / "lease"), lease.token)
    train = TRAIN.replace("validate_every: 7", "validate_every: 1")
    job = parts("mlp", checkpoint={"every_steps": 5}) | {"train": train}
    begun, _, _ = trained(1, place, name="begun", stop_at=1, **job)
    cut = parts("mlp", 2, {"shard": 2}, checkpoint={"every_steps": 5})
    cut["train"] = train.replace("clip_norm", "early_stopping: {patience: 6}, clip_norm")
    rest, metrics, _ = trained(2, place, name="cut", **cut)
    assert len(begun) == 2 and len(begun) + len(rest) > 8
    manifests = [
        json.loads((f / "manifest.json").read_text()) for f in Path(place.checkpoints).iterdir()
    ]
    best = max((m for m in manifests if m["best"]), key=lambda m: m["step"])
    assert best["layout"] == "shards" and best["progress"]["best_step"] == best["step"]
    assert metrics["validation"]["auc"] == pytest.approx(best["progress"]["best_score"], abs=1e-6)


@pytest.mark.parametrize(
    ("model", "degrees", "sentence"),
    [
        (
            "{kind: mlp, hidden: [16, 9]}",
            "{tensor: 2}",
            r"2 does not divide model\.hidden\[1\] = 9",
        ),
        ("{kind: mlp, norm: batch}", "{tensor: 2}", "would count twice"),
        ("{kind: tabular_transformer, nhead: 4}", "{tensor: 3}", "does not divide model.nhead"),
        ("{kind: xgboost}", "{shard: 2}", "`xgboost` cannot be cut"),
        ("{kind: mlp}", "{shard: 5}", "5 does not divide workers = 6"),
        ("{kind: mlp, hidden: [16]}", "{pipeline: 2}", r"model\.hidden has 1"),
        ("{kind: mlp, norm: batch}", "{pipeline: 2}", "needs the whole batch"),
    ],
)
def test_a_cut_that_does_not_add_up_is_refused(make_job, model, degrees, sentence):
    job = make_job(model=f"model: {model}", train="")
    with pytest.raises(PlanError, match=sentence):
        plan_of(job, "scale.workers=6", f"scale.parallel={degrees}")


@pytest.mark.parametrize("shape", ["data 2", "shard 2", "data 2 x tensor 2", "data 2 x pipeline 2"])
def test_what_is_not_finite_on_one_rank_alone_is_named(trained, tmp_path, shape):
    """One row of the table overflows: of two ranks with different rows, one sees it."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 1000)).astype(np.float32)
    y = x + z > 0
    x[500], source = 8e37, tmp_path / "one"
    source.mkdir()
    pq.write_table(pa.table({"x": x, "z": z, "y": y}), source / "rows.parquet")
    size, degrees = SHAPES[shape]
    job = parts("mlp", size, degrees) | {
        "data": f"data: {{source: {source}, target: y, task: binary, split: {{validation: 0, test: 0}}, "
        "features: {x: {type: number, scale: none}, z: number}}",
        "train": "train: {epochs: 2, batch_size: 80}",
    }
    with pytest.raises(AssertionError) as failed:
        trained(size, **job)
    told = str(failed.value).splitlines()[-1]
    if "pipeline" in shape:  # its stages see no outputs of each other's
        assert re.search(r"the training loss is \w+ at step \d+\. ", told)
    else:  # the first norm squares it
        assert re.search(r"the training loss is \w+ at step \d+: `blocks.1` is the first", told)
