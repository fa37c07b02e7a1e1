"""Transfer learning: what is taken over, what stays, and that it helps on real data."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from heliostat.data.encode import CategoryTransform, Encoder, NumberTransform, TargetTransform
from heliostat.data.inherit import inherited
from heliostat.errors import UserError
from heliostat.models.network import build_network
from heliostat.models.predictor import Shape
from heliostat.models.randomness import Randomness
from heliostat.spec.model import MlpModel
from heliostat.storage.files import write_json
from heliostat.train.transfer import begin_from, freeze

FLIGHTS = """
name: transfer
seed: 3
objective: auc
data:
  source: SOURCE
  filter: "month == 7"
  target: late
  task: binary
  features: {carrier: category, origin: category, dest: category, sched_dep_time: number,
             distance: number, day: number, hour: number, dep_delay: number}
  split: {method: random, validation: 0.2, test: 0.2}
model: {kind: mlp, hidden: [32, 32]}
train: {steps: 20, batch_size: 256, validate_every: 20}
"""


def encoder(**vocabularies: tuple[str, ...]) -> Encoder:
    categories = tuple(CategoryTransform(n, v, 1) for n, v in vocabularies.items())
    target = TargetTransform("y", ("a", "b"), 0.0, 1.0, "string")
    return Encoder((NumberTransform("x", 0.0, 0.0, 1.0),), categories, target)


def network(codes: Encoder, seed: int, hidden=(8, 8)):
    torch.manual_seed(seed)
    shape = Shape(codes.num_numbers, codes.cardinalities, 1, "binary")
    return build_network(MlpModel(kind="mlp", hidden=hidden), shape, Randomness(), None)


def saved(folder, codes: Encoder, seed: int = 1):
    folder.mkdir()
    model = network(codes, seed)
    save_file(model.state_dict(), str(folder / "weights.safetensors"))
    types = {category.name: "string" for category in codes.categories}
    write_json(folder / "model.json", {"transforms": codes.to_json(), "types": types})
    return model


def test_a_model_goes_on_with_the_transforms_it_was_trained_with(tmp_path):
    """In their order too: a column of the first layer belongs to an input."""
    before = encoder(color=("blue", "green", "red"), size=("L", "S"))
    saved(tmp_path / "model", before)
    after = encoder(size=("L", "M", "S"), color=("green", "red", "white"))
    after = replace(after, target=replace(after.target, classes=("c", "d")))
    types = {"color": "large_string", "size": "string"}
    taken = inherited(after, str(tmp_path / "model"), types)
    assert taken.categories == before.categories and taken.target == after.target
    assert inherited(after, None, types) is after
    with pytest.raises(UserError, match="lacking here color; only here shape"):
        inherited(encoder(size=("L",), shape=("o",)), str(tmp_path / "model"), types)
    with pytest.raises(UserError, match="learned `size` as string, which is int64 here"):
        inherited(after, str(tmp_path / "model"), types | {"size": "int64"})


def test_a_bare_file_gives_what_fits_and_one_that_does_not_is_refused(tmp_path):
    codes = encoder()
    old = saved(tmp_path / "model", codes)
    wide = network(codes, 2, hidden=(8, 16))
    told = begin_from(wide, str(tmp_path / "model" / "weights.safetensors"))
    assert "new: " in told and "head.weight" in told
    assert torch.equal(wide.blocks[0].weight, old.blocks[0].weight)
    save_file({"other": torch.ones(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(UserError, match="none of its 1 weights"):
        begin_from(wide, str(tmp_path / "other.safetensors"))


def test_frozen_parameters_are_named_by_pattern():
    model = network(encoder(), 0)
    freeze(model, ("blocks.*",))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["head.weight", "head.bias"]
    with pytest.raises(UserError, match="`tail.*` fits none of"):
        freeze(model, ("tail.*",))
    with pytest.raises(UserError, match="nothing to train"):
        freeze(model, ("*",))


@pytest.mark.slow
def test_flights_of_july_are_learned_sooner_after_those_before(
    heliostat, flights, tmp_path, ray_head
):
    """At equal steps, beginning from the first half of the year beats beginning from nothing."""
    job = tmp_path / "job.yaml"
    job.write_text(FLIGHTS.replace("SOURCE", str(flights)) + f"storage: {tmp_path}/s\n")
    env = {"RAY_ADDRESS": ray_head.address}

    def auc(*settings: str) -> tuple[float, str]:
        arguments = [part for setting in settings for part in ("--set", setting)]
        done = heliostat("run", job, "--json", *arguments, env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["metrics"]["test"]["auc"], done.stderr

    before = "data.filter='month <= 6'"
    auc("name=before", before, "train={epochs: 1, batch_size: 256}")
    scratch, _ = auc()
    tuned, told = auc("model.init_from=before")
    assert "begins with" in told and tuned > scratch + 0.02, (tuned, scratch)
    frozen, _ = auc("model.init_from=before", "model.freeze=[embeddings.*, blocks.0.*]")
    assert frozen > scratch
    refused = heliostat("run", job, "--set", "model.init_from=nobody", env=env)
    assert refused.returncode == 2 and "`nobody` is no file, and no run `nobody`" in refused.stderr
