"""The parts of `tests.bench.gpu`, each run in a process of its own."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F

from heliostat.data.encode import Inputs
from heliostat.data.reader import Batch, EncodedRows
from heliostat.models.network import NetworkPredictor, build_network
from heliostat.models.predictor import Shape
from heliostat.models.randomness import Randomness
from heliostat.models.stacked import stacked
from heliostat.parallel.apply import Means, parallelized
from heliostat.parallel.world import Degrees, SoloWorld
from heliostat.spec.model import GptModel, MlpModel, NetworkModel
from heliostat.spec.train import LossSpec, OptimizerSpec
from heliostat.storage.lease import Lease
from heliostat.train.checkpoint import CommittedCheckpoints, ScratchCheckpoints
from heliostat.train.control import NoControl
from heliostat.train.events import Stepped
from heliostat.train.loop import fit
from heliostat.train.losses import loss_sum
from heliostat.train.network import tensor_batches
from heliostat.train.optim import build_optimizer
from heliostat.train.stacked_optim import StackedOptimizer
from heliostat.train.task import Fit
from tests.bench.figures import Figure, Goal, at_least, at_most, report

ON_CPU = os.environ.get("HELIOSTAT_DEVICE") == "cpu"
DEVICE = "cpu" if ON_CPU else "cuda"
END = 0
MLP = MlpModel(kind="mlp")
NUMBERS = 28


def wait() -> None:
    """Until the GPU has done all that it was given."""
    if not ON_CPU:
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of a call, the GPU's work included."""
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun


def tell(name: str, unit: str, values: list[float], goal: Goal | None = None, **parts: list[float]):
    """A figure; a goal only where there is a GPU."""
    values_of = {part: tuple(of) for part, of in parts.items()}
    report(Figure(name, unit, tuple(values), None if ON_CPU else goal, values_of))


def peak_flops(turns: int = 5) -> float:
    """Operations a second of a large bfloat16 matrix product of random numbers."""
    size = 256 if ON_CPU else 8192
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    times = [seconds_of(lambda: [a @ b for _ in range(4)]) / 4 for _ in range(turns + 2)][2:]
    return 2 * size**3 / median(times)


def peak() -> None:
    """What the card does at most: products and copies."""
    tell("bfloat16 matrix product", "TF/s", [peak_flops() / 1e12 for _ in range(3)])
    one = torch.empty(2**20 if ON_CPU else 2**32, dtype=torch.uint8, device=DEVICE)
    other = torch.empty_like(one)
    rates = [2 * len(one) / seconds_of(lambda: other.copy_(one)) / 1e12 for _ in range(6)][1:]
    tell("memory, read and written", "TB/s", rates)


def gpt_350m() -> None:
    """24 layers of 1024, heads of 128, 32k tokens; and what a checkpoint costs."""
    language_model("gpt 350M", 1024, 24, length=2048, rows=16, micro=8, goal=0.50, saves=True)


def gpt_1300m() -> None:
    """24 layers of 2048, heads of 128, 32k tokens."""
    language_model("gpt 1.3B", 2048, 24, length=4096, rows=8, micro=2, goal=0.55)


def language_model(
    name: str, width: int, layers: int, length: int, rows: int, micro: int, goal: float,
    saves: bool = False,
) -> None:  # fmt: skip
    """Tokens a second, MFU by a product of the same run, against a bare loop, and waits for data."""
    if ON_CPU:
        width, layers, length, rows, micro = 64, 1, 64, 4, 2
    vocabulary = 300 if ON_CPU else 32_768
    spec = GptModel(
        kind="gpt", max_tokens=length, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 128), vocab_size=vocabulary,
    )  # fmt: skip
    peak, steps = peak_flops(), 3 if ON_CPU else 10 if width < 2048 else 5
    data = Texts(rows, length, vocabulary)
    shape = Shape(0, (), vocabulary, "language", end=END)
    with tempfile.TemporaryDirectory() as folder:
        ours = OurLoop(spec, shape, data, steps, micro, "bfloat16", Path(folder) if saves else None)
        times = ours.step_seconds
    tokens = rows * length
    flops = tokens * flops_per_token(spec, vocabulary)
    label = f"{name}, {length} tokens"
    tell(f"{label}: tokens/s", "k/s", [tokens / t / 1e3 for t in times])
    tell(f"{label}: MFU", "", [flops / t / peak for t in times], at_least(goal))
    tell(f"{label}: share of waiting for data", "", [ours.waiting_share], at_most(0.01))
    if saves:
        tell(f"{label}: a checkpoint stops training", "s", [ours.stall_seconds])
    if not ON_CPU:
        tell(f"{label}: most memory", "GiB", [torch.cuda.max_memory_allocated() / 2**30])
    ours.task = None
    gc.collect()
    if not ON_CPU:
        torch.cuda.empty_cache()
    bare = bare_steps(spec, shape, data, steps, micro)
    ratio = median(bare) / median(times)
    tell(f"{label}: speed to a bare loop's", "x", [ratio], at_least(0.97), ours=times, bare=bare)


def flops_per_token(spec: GptModel, vocabulary: int) -> float:
    """Forward and backward, attention as if it were not causal (Chowdhery et al., 2022)."""
    queries = spec.num_attention_heads * spec.width_of_head
    shared = spec.num_shared_heads * spec.width_of_head
    width = spec.hidden_size
    matrices = width * (2 * queries + 2 * shared + 3 * spec.feed_forward_size)
    a_layer = matrices + 2 * spec.max_tokens * queries
    return 6.0 * (spec.num_hidden_layers * a_layer + vocabulary * width)


class Texts:
    """Endless batches of packed documents, of 400 tokens on average, made ahead."""

    def __init__(self, rows: int, length: int, vocabulary: int) -> None:
        rng = np.random.default_rng(0)
        self.waited = 0.0
        self.batches = []
        for _ in range(4):
            tokens = rng.integers(1, vocabulary, (rows, length + 1))
            tokens[rng.random(tokens.shape) < 1 / 400] = END
            own = EncodedRows(
                Inputs(np.empty((rows, 0), np.float32), tokens[:, :-1].astype(np.int32)),
                tokens[:, 1:].astype(np.int64), np.arange(rows), np.ones((rows, length), np.float32),
            )  # fmt: skip
            self.batches.append(Batch(own, rows, float(rows * length)))

    def __call__(self, first: int) -> Iterator[Batch]:
        while True:
            yield self.batches[first % len(self.batches)]
            first += 1

    def on_device(self, first: int) -> Iterator:
        """As training takes them; how long it waits is counted."""
        tensors = tensor_batches(self, DEVICE, first)
        while True:
            begun = time.perf_counter()
            batch = next(tensors)
            self.waited += time.perf_counter() - begun
            yield batch


class OurLoop:
    """A training by the product's loop: seconds of each block of steps, a step, after compiling."""

    def __init__(
        self, spec: NetworkModel, shape: Shape, data: Texts, steps: int, micro: int | None,
        precision: str, folder: Path | None = None, compiles: bool = True, blocks: int = 4,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        randomness = Randomness()
        model = build_network(spec, shape, randomness, None).train()
        replica = parallelized(
            model, SoloWorld(), Degrees(), Means(compile=compiles and not ON_CPU), DEVICE
        )
        self.task: Fit | None = Fit(
            model=model, replica=replica, optimizer=build_optimizer(OptimizerSpec(), model),
            loss_sum=loss_sum(LossSpec(), shape.task), batches=data.on_device,
            rate=lambda step, progress: 1.0, evaluate=lambda: {"loss": 0.0}, objective="loss",
            goal="min", patience=None, num_steps=steps * blocks, steps_per_epoch=10**9,
            steps_per_unit=1, unit="steps", validate_every=10**9, log_every=steps,
            checkpoint_every=steps * (blocks - 1) if folder else None, randomness=randomness,
            seed=0, validates=False, micro_rows=micro, precision=precision,
        )  # fmt: skip
        self.step_seconds: list[float] = []
        self.stall_seconds = self.waiting_share = 0.0
        self._run(data, steps, folder)

    def _run(self, data: Texts, steps: int, folder: Path | None) -> None:
        assert self.task is not None
        checkpoints = ScratchCheckpoints()
        if folder is not None:
            lease = Lease.acquire(folder / "lease")
            checkpoints = CommittedCheckpoints(folder / "c", folder / "lease", lease.token, 1, {})
        started = begun = time.perf_counter()
        at = 0
        for event in fit(self.task, SoloWorld(), checkpoints, NoControl()):
            now = time.perf_counter()
            if isinstance(event, Stepped) and event.step - at == steps - (at == 1):
                if not self.step_seconds:  # in the first block all is compiled
                    started, data.waited = now, 0.0
                self.step_seconds.append((now - begun) / (event.step - at))
            if isinstance(event, Stepped):
                begun, at = now, event.step
                self.waiting_share = data.waited / max(now - started, 1e-9)
        if folder is not None:  # the last block begins with a checkpoint
            last = self.step_seconds.pop()
            self.stall_seconds = max(0.0, (last - median(self.step_seconds)) * steps)
        self.step_seconds = self.step_seconds[1:]


def bare_steps(spec: GptModel, shape: Shape, data: Texts, steps: int, micro: int) -> list[float]:
    """Seconds a step of the loop that a person would write, over batches that lie on the device."""
    torch.manual_seed(0)
    model = build_network(spec, shape, Randomness(), None).train().to(DEVICE)
    if not ON_CPU:
        for layer in model.model.layers:
            layer.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, fused=True)
    batches = [next(data.on_device(i)) for i in range(len(data.batches))]

    def step(number: int) -> None:
        batch = batches[number % len(batches)]
        optimizer.zero_grad(set_to_none=True)
        for piece in batch.pieces(micro):
            with torch.autocast(DEVICE, torch.bfloat16):
                logits = model(piece.numbers, piece.categories)
            loss = F.cross_entropy(logits.float().flatten(0, 1), piece.target.flatten())
            (loss * len(piece.rows) / len(batch.rows)).backward()
        optimizer.step()

    step(0), step(1)
    blocks = [seconds_of(lambda: [step(i) for i in range(steps)]) / steps for _ in range(2)]
    profiled(spec, lambda: step(0))
    return blocks


def profiled(spec: GptModel, step: Callable[[], None]) -> None:
    """Where the time of a step goes, by kernel, into the folder of `HELIOSTAT_PROFILE`."""
    folder = os.environ.get("HELIOSTAT_PROFILE")
    if not folder:
        return
    with torch.profiler.profile() as found:
        step()
        wait()
    order = "self_cpu_time_total" if ON_CPU else "self_device_time_total"
    Path(folder).mkdir(parents=True, exist_ok=True)
    table = found.key_averages().table(sort_by=order, row_limit=40)
    (Path(folder) / f"gpt-{spec.hidden_size}.txt").write_text(table)


class Rows(Texts):
    """Endless batches of noise."""

    def __init__(self, rows: int) -> None:
        rng = np.random.default_rng(0)
        self.waited, self.batches = 0.0, []
        for _ in range(16):
            x = rng.normal(size=(rows, NUMBERS)).astype(np.float32)
            own = EncodedRows(
                Inputs(x, np.zeros((rows, 0), np.int32)), (x[:, 0] > 0).astype(np.int64),
                np.arange(rows), np.ones(rows, np.float32),
            )  # fmt: skip
            self.batches.append(Batch(own, rows, float(rows)))


def small_steps() -> None:
    """A small network at a small batch: the host's work is what takes time."""
    steps, shape = (20, 2) if ON_CPU else (1000, 2), Shape(NUMBERS, (), 1, "binary")
    data = Rows(256)
    bare = []
    for graphs in (False, True):
        torch.manual_seed(0)
        model = build_network(MLP, shape, Randomness(), None).train().to(DEVICE)
        if graphs and not ON_CPU:
            model.compile(mode="reduce-overhead")
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        batches = [next(data.on_device(i)) for i in range(16)]

        def step(number: int, model=model, optimizer=optimizer, batches=batches) -> None:
            now = batches[number % 16]
            optimizer.zero_grad(set_to_none=True)
            outputs = model(now.numbers, now.categories)[:, 0]
            F.binary_cross_entropy_with_logits(outputs, now.target.float()).backward()
            optimizer.step()

        [step(i) for i in range(10)]
        bare.append(seconds_of(lambda step=step: [step(i) for i in range(steps[0])]) / steps[0])
    ours = OurLoop(MLP, shape, data, steps[0], None, "float32", compiles=False).step_seconds
    label = "mlp 128-128, batch 256"
    tell(f"{label}: steps/s", "/s", [1 / t for t in ours], bare=[1 / bare[0]], graphs=[1 / bare[1]])
    tell(f"{label}: speed to a bare loop's", "x", [bare[0] / median(ours)], at_least(0.97))


def fused() -> None:
    """Steps of 32 and 256 small networks together, against as many one after another."""
    shape, steps = Shape(NUMBERS, (), 1, "binary"), 3 if ON_CPU else 100
    for size in (4,) if ON_CPU else (32, 256):
        for rows in (64, 256, 1024):
            batch = next(Rows(rows).on_device(0))
            models = [build_network(MLP, shape, Randomness(), None).to(DEVICE) for _ in range(size)]
            alone = build_network(MLP, shape, Randomness(), None).to(DEVICE)
            optimizer = build_optimizer(OptimizerSpec(), alone)
            whole = stacked(models)
            together = StackedOptimizer([OptimizerSpec()] * size, [None] * size, whole)
            target = batch.target.float()

            def one(alone=alone, optimizer=optimizer, batch=batch, target=target) -> None:
                optimizer.zero_grad()
                outputs = alone(batch.numbers, batch.categories)[:, 0]
                F.binary_cross_entropy_with_logits(outputs, target).backward()
                optimizer.step()

            def all_(whole=whole, together=together, batch=batch, target=target, size=size) -> None:
                outputs = whole(batch.numbers.expand(size, -1, -1), batch.categories)[..., 0]
                wanted = target.expand(size, -1)
                each = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
                together.step(each.mean(1).sum(), [1.0] * size)

            ratios = []
            for _ in range(3):
                one(), all_()
                alone_seconds = seconds_of(lambda one=one: [one() for _ in range(steps)])
                all_seconds = seconds_of(lambda all_=all_: [all_() for _ in range(steps)])
                ratios.append(alone_seconds * size / all_seconds)
            name = f"{size} fused mlp, batch {rows}: times as fast as one by one"
            tell(name, "x", ratios, at_least(10))


def reader() -> None:
    """Batches from memory to the device, by pinned memory and without."""
    for rows in (1024, 8192):
        data, count = Rows(rows), 5 if ON_CPU else 300
        batches = data.on_device(0)

        def pinned(batches=batches, count=count) -> None:
            for _ in range(count):
                next(batches)

        def plain(data=data, count=count) -> None:
            for i in range(count):
                own = data.batches[i % 16].own
                for part in (
                    own.inputs.numbers,
                    own.inputs.categories,
                    own.target,
                    own.rows,
                    own.weights,
                ):
                    torch.from_numpy(part).to(DEVICE)

        rates = [
            [rows * count / seconds_of(by) / 1e6 for _ in range(4)][1:] for by in (pinned, plain)
        ]
        tell(f"to the device, batch {rows}: rows/s", "M/s", rates[0], plain=rates[1])


def scoring() -> None:
    """Rows a second of a small network's predictor."""
    rows = 2_000 if ON_CPU else 500_000
    model = build_network(MLP, Shape(NUMBERS, (), 1, "binary"), Randomness(), None).to(DEVICE)
    predictor = NetworkPredictor(model, Shape(NUMBERS, (), 1, "binary"), DEVICE)
    numbers, codes = np.random.rand(rows, NUMBERS).astype(np.float32), np.zeros((rows, 0), np.int32)
    rates = [rows / seconds_of(lambda: predictor.scores(numbers, codes)) / 1e6 for _ in range(5)]
    tell("scores of mlp 128-128: rows/s", "M/s", rates[1:])
