"""The loop alone: a list of batches, no Ray, no data set."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from heliostat.errors import ArtifactError, LeaseLostError, TrainError, UserError
from heliostat.models.randomness import HashDropout, Randomness
from heliostat.parallel.world import SoloWorld
from heliostat.spec.train import LossSpec, OptimizerSpec, ParameterSpec, ScheduleSpec
from heliostat.storage.lease import Lease
from heliostat.train import passes, scaling
from heliostat.train.checkpoint import CommittedCheckpoints, ScratchCheckpoints
from heliostat.train.control import NoControl
from heliostat.train.events import Committed, Resumed, Stepped, Stopped, StoppedEarly, Validated
from heliostat.train.loop import fit
from heliostat.train.losses import loss_sum
from heliostat.train.optim import build_optimizer, check_patterns, rate_factor
from heliostat.train.task import Fit, TensorBatch

STEPS, PER_EPOCH = 40, 10


class StopAt(NoControl):
    """Asks for a stop from the n-th question on."""

    def __init__(self, asks: int) -> None:
        self.asks = asks

    def stop_requested(self) -> bool:
        self.asks -= 1
        return self.asks < 0


class Net(nn.Module):
    def __init__(self, randomness: Randomness) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.ReLU(), HashDropout(0.3, 16, 0, randomness), nn.Linear(16, 1)
        )

    def forward(self, numbers, categories):
        return self.layers(numbers)


def batches(first: int):
    for step in range(first, 10**9):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(32, 6, generator=generator)
        y = (x[:, 0] > 0).long()
        yield TensorBatch(
            x, torch.zeros(32, 0), y, torch.arange(32) + 32 * step, torch.ones(32), 32, 32.0
        )


def task(**changes) -> Fit:
    torch.manual_seed(0)
    randomness = Randomness(5)
    model = Net(randomness)
    values = iter(changes.pop("scores", [0.5 + i / 1000 for i in range(1000)]))
    spec = ScheduleSpec(name="cosine", warmup_steps=5)
    fields = Fit(
        model=model, replica=model, optimizer=build_optimizer(OptimizerSpec(), model),
        loss_sum=loss_sum(LossSpec(), "binary"), batches=batches,
        rate=lambda step, progress: rate_factor(spec, step, STEPS, progress.num_drops), evaluate=lambda: {"auc": next(values)},
        objective="auc", goal="max", patience=None, num_steps=STEPS, steps_per_epoch=PER_EPOCH,
        steps_per_unit=PER_EPOCH, unit="epochs", validate_every=PER_EPOCH, log_every=1, checkpoint_every=None,
        randomness=randomness, seed=5,
    )  # fmt: skip
    return replace(fields, **changes)


def weights(fit_task: Fit) -> str:
    digest = hashlib.sha256()
    for tensor in fit_task.model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def run(fit_task: Fit, checkpoints=None, control=None):
    return list(
        fit(fit_task, SoloWorld(), checkpoints or ScratchCheckpoints(), control or NoControl())
    )


def committed(tmp_path, keep: int = 2) -> CommittedCheckpoints:
    lease = Lease.acquire(tmp_path / "lease") or Lease(tmp_path / "lease", 1)
    return CommittedCheckpoints(
        tmp_path / "checkpoints", tmp_path / "lease", lease.token, keep, {"data": "d"}
    )


@pytest.mark.parametrize("stop", [1, 7, 10, 23, 39])
def test_stopped_and_resumed_is_bit_for_bit_the_undisturbed_run(tmp_path, stop):
    whole = task()
    undisturbed = run(whole)
    first = run(task(), committed(tmp_path), StopAt(stop - 1))
    assert isinstance(first[-1], Stopped) and first[-1].step == stop
    resumed = task()
    second = run(resumed, committed(tmp_path))
    assert isinstance(second[0], Resumed) and second[0].step == stop
    assert weights(resumed) == weights(whole)
    losses = [e.loss for e in first + second if isinstance(e, Stepped)]
    assert losses == [e.loss for e in undisturbed if isinstance(e, Stepped)]
    history = [row for row in second[0].history if "train/loss" in row]
    assert [row["train/loss"] for row in history] == losses[:stop]


def test_validation_and_best_checkpoints(tmp_path):
    checkpoints = committed(tmp_path)
    events = run(task(scores=[0.5, 0.7, 0.6, float("nan")]), checkpoints)
    validated = [e for e in events if isinstance(e, Validated)]
    assert [(e.step, e.improved) for e in validated] == [
        (10, True),
        (20, True),
        (30, False),
        (40, False),
    ]
    assert [e.progress for e in validated] == [1, 2, 3, 4]
    assert [e.step for e in events if isinstance(e, Committed)] == [10, 20]
    assert checkpoints.best().step == 20


def test_early_stopping_counts_evaluations_and_survives_a_resume(tmp_path):
    early = {"scores": [0.9, 0.8, 0.7, 0.6], "patience": 2}
    events = run(task(**early), committed(tmp_path))
    assert [e.step for e in events if isinstance(e, Validated)] == [10, 20, 30]
    told = [str(e) for e in events if isinstance(e, StoppedEarly)]
    assert told == [
        "stopped early at epoch 3 of 4: auc was best at epoch 1 (0.9), and 2 validations were no "
        "better since (`train.early_stopping`); the model is that of epoch 1"
    ]
    run(task(**early), committed(tmp_path / "b"), StopAt(24))
    late = run(task(scores=[0.7, 0.6], patience=2), committed(tmp_path / "b"))
    assert [e.step for e in late if isinstance(e, Validated)] == [30]


def test_a_loss_that_is_not_finite_ends_training_at_its_step():
    def poisoned(first):
        for step, batch in enumerate(batches(first), first):
            yield replace(batch, numbers=batch.numbers * (float("inf") if step == 6 else 1))

    with pytest.raises(TrainError, match="the training loss is nan at step 7"):
        run(task(batches=poisoned, log_every=5))


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "manifest"])
def test_a_damaged_checkpoint_is_passed_over_aloud(tmp_path, damage):
    run(task(checkpoint_every=8), committed(tmp_path, keep=9), StopAt(25))
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    file = newest / ("manifest.json" if damage == "manifest" else "weights.safetensors")
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.write_bytes(content[:-9])
    events = run(task(), committed(tmp_path))
    assert (
        events[0].step < 26 and f"checkpoint {newest.name} is passed over" in events[0].skipped[0]
    )


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    run(task(checkpoint_every=4, scores=[0.9, 0.1, 0.1, 0.1]), committed(tmp_path, keep=2))
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-000000010", "step-000000036", "step-000000040",
    ]  # fmt: skip


def test_checkpoints_of_other_data_are_not_used(tmp_path):
    run(task(), committed(tmp_path))
    other = CommittedCheckpoints(
        tmp_path / "checkpoints", tmp_path / "lease", 1, 2, {"data": "other"}
    )
    found, skipped = other.latest()
    assert found is None and "was taken with other data" in skipped[0]
    with pytest.raises(ArtifactError):
        other._verified(sorted((tmp_path / "checkpoints").iterdir())[0])


def test_a_superseded_process_commits_nothing_more(tmp_path):
    checkpoints = committed(tmp_path)
    Lease(tmp_path / "lease", 1).release()
    assert Lease.acquire(tmp_path / "lease").token == 2
    with pytest.raises(LeaseLostError):
        run(task(), checkpoints)
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_vectors_are_spared_from_weight_decay():
    optimizer = build_optimizer(OptimizerSpec(weight_decay=0.3), Net(Randomness()))
    decays = {p.ndim: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {2: 0.3, 1: 0.0}


@pytest.mark.parametrize("name", ["constant", "step", "linear", "cosine", "one_cycle"])
def test_schedules_warm_up_and_stay_within_the_rate(name):
    spec = ScheduleSpec(name=name, warmup_steps=10)
    factors = [rate_factor(spec, step, 100) for step in range(100)]
    assert factors[:10] == [(i + 1) / 10 for i in range(10)]
    assert all(0 <= f <= 1 for f in factors)
    if name in ("linear", "cosine", "one_cycle"):
        assert factors[-1] < 0.05


def test_a_plateau_lowers_the_rate_and_survives_a_resume(tmp_path):
    schedule = ScheduleSpec(name="plateau", patience=2, factor=0.5)

    def flat() -> Fit:
        changes = {"validate_every": 4, "log_every": 1, "plateau": 2}
        return replace(
            task(**changes), evaluate=lambda: {"auc": 0.5},
            rate=lambda step, progress: rate_factor(schedule, step, STEPS, progress.num_drops),
        )  # fmt: skip

    whole = list(fit(flat(), SoloWorld(), ScratchCheckpoints(), NoControl()))
    rates = [event.learning_rate / 0.001 for event in whole if isinstance(event, Stepped)]
    # The first evaluation, after step 4, is the best; two more make a plateau: steps 13, 21, ...
    assert rates == pytest.approx([1] * 12 + [0.5] * 8 + [0.25] * 8 + [0.125] * 8 + [0.0625] * 4)
    checkpoints = committed(tmp_path)
    first = list(fit(flat(), SoloWorld(), checkpoints, StopAt(17)))
    again = list(fit(flat(), SoloWorld(), checkpoints, NoControl()))
    resumed = [e.learning_rate / 0.001 for e in (*first, *again) if isinstance(e, Stepped)]
    assert resumed == pytest.approx(rates)


def test_parameters_have_settings_of_their_own():
    net = Net(Randomness())
    own = {"layers.0.*": ParameterSpec(learning_rate=0.5), "*.bias": ParameterSpec(weight_decay=3)}
    optimizer = build_optimizer(OptimizerSpec(learning_rate=0.1, parameters=own), net)
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for name, parameter in net.named_parameters()
        if any(parameter is other for other in group["params"])
    }
    assert found == {
        "layers.0.weight": (0.5, 0.01), "layers.0.bias": (0.5, 0.0),
        "layers.3.weight": (0.1, 0.01), "layers.3.bias": (0.1, 3.0),
    }  # fmt: skip
    with pytest.raises(UserError, match=r"head\.\*: fits no parameter.*layers\.0\.weight"):
        check_patterns(OptimizerSpec(parameters={"head.*": ParameterSpec()}), net)


def close(one: Fit, other: Fit) -> None:
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(tensor, other.model.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("micro_rows", [1, 5, 31, 32, 100])
def test_micro_batches_change_nothing_but_memory(micro_rows):
    whole, parts = task(clip_norm=0.5), task(clip_norm=0.5, micro_rows=micro_rows)
    losses = [[e.loss for e in run(one) if isinstance(e, Stepped)] for one in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    close(whole, parts)


class Hungry(nn.Module):
    """Runs out of memory above ten rows."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, numbers, categories):
        if len(numbers) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.seen.append(len(numbers))
        return self.net(numbers, categories)


def test_a_micro_batch_is_halved_when_memory_runs_out():
    plain, small = task(), task(halves_micro_rows=True)
    hungry = Hungry(small.model)
    small = replace(small, replica=hungry)
    run(plain), run(small)
    assert set(hungry.seen) == {8}  # 32, 16, 8, and then it stays
    close(plain, small)
    fixed = task(micro_rows=20)
    with pytest.raises(
        TrainError, match=r"memory ran out at step 1 with 20 rows.*micro_batch_size: 10"
    ):
        run(replace(fixed, replica=Hungry(fixed.model)))


def test_peers_that_share_a_model_do_not_halve_what_only_one_has_no_memory_for(monkeypatch):
    """They see the same rows, but the others may wait for it already."""
    monkeypatch.setattr(passes, "is_cut", lambda model: True)
    small = task(halves_micro_rows=True)
    with pytest.raises(TrainError, match="memory ran out at step 1"):
        run(replace(small, replica=Hungry(small.model)))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_nearly_the_same(precision):
    exact, rounded = task(), task(precision=precision)
    losses = [[e.loss for e in run(one) if isinstance(e, Stepped)] for one in (exact, rounded)]
    assert losses[1] != losses[0] and losses[1] == pytest.approx(losses[0], rel=0.05)
    assert {p.dtype for p in rounded.model.parameters()} == {torch.float32}


def test_float16_leaves_out_what_overflows_and_resumes_with_its_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "FIRST_SCALE", 2.0**30)
    monkeypatch.setattr(scaling, "STEPS_BETWEEN_RISES", 7)
    whole = task(precision="float16", clip_norm=1.0)
    before = weights(whole)
    run(replace(whole, num_steps=1))
    assert weights(whole) == before
    whole = task(precision="float16", clip_norm=1.0)
    losses = [event.loss for event in run(whole) if isinstance(event, Stepped)]
    assert weights(whole) != before and losses[-1] < losses[0]
    first = run(task(precision="float16", clip_norm=1.0), committed(tmp_path), StopAt(18))
    assert isinstance(first[-1], Stopped)
    resumed = task(precision="float16", clip_norm=1.0)
    run(resumed, committed(tmp_path))
    assert weights(resumed) == weights(whole)


def test_float16_ends_where_no_scale_helps():
    broken = task(precision="float16")
    broken.model.layers[1] = Explodes(forward=False)
    with pytest.raises(TrainError, match=r"gradient of `layers\.0\.\w+` is not finite at step"):
        run(broken)


class Explodes(nn.Module):
    """Its output, or only its gradient, is not finite from the third call on."""

    def __init__(self, forward: bool) -> None:
        super().__init__()
        self.calls, self.in_forward = 0, forward

    def forward(self, x):
        self.calls += 1
        if self.calls < 3:
            return x
        return x * float("inf") if self.in_forward else torch.sqrt(x * 0) + x


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize(
    ("forward", "sentence"),
    [
        (True, r"loss is (nan|inf|-inf) at step 3: `layers\.1` is the first module whose output"),
        (False, r"gradient of `layers\.0\.\w+` is not finite at step 3"),
    ],
)
def test_what_is_not_finite_first_is_named_with_its_step(forward, sentence, clip_norm):
    broken = task(clip_norm=clip_norm)
    broken.model.layers[1] = Explodes(forward)
    with pytest.raises(TrainError, match=sentence):
        run(broken)


def test_the_step_line_has_the_norm_of_the_gradients():
    seen = task(log_every=7)
    events = [event for event in run(seen) if isinstance(event, Stepped)]
    expected = torch.cat([p.grad.flatten() for p in seen.model.parameters()]).norm()
    assert events[-1].gradient_norm == pytest.approx(float(expected), rel=1e-5)
    assert events[-1].memory_bytes > 10**6
