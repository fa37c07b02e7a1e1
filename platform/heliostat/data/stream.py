"""Training rows straight from the source, by Ray Data's `streaming_split`.

One Ray Data pipeline reads windows and cuts each into one slice a rank; `streaming_split` hands
the slices out in turn, which is what it does when order is preserved; each rank makes its
batches from them. So the batches are those of any number of ranks, and every rank has the same
number of them. The pipeline's tasks run on CPUs of their own, which no trainer can take.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from heliostat.data.encode import Inputs
from heliostat.data.reader import Batch, EncodedRows, rank_slice
from heliostat.data.windows import Slice, Window, WindowReader
from heliostat.errors import DataError, PlacementError, Problem
from heliostat.parallel.world import World, broadcast
from heliostat.plan.stream import DATA_CPUS

WINDOWS_PER_PIPELINE = 256
DAMAGED = -1  # in place of a window's number: the payload says what is wrong with it


class StreamBatches:
    """The batches of training, for one rank; see `EpochBatches`, whose twin it is."""

    def __init__(
        self, reader: WindowReader, world: World, num_batches: int, patience_seconds: float
    ) -> None:
        self.reader, self.world, self.num_batches = reader, world, num_batches
        self.patience_seconds = patience_seconds
        self.batches_per_epoch = -(-reader.order.num_rows // reader.batch_size)

    def __call__(self, first_batch: int) -> Iterator[Batch]:
        """Batches from number `first_batch` of the run on, to the last that was asked for."""
        slices = _Unread(self._slices(first_batch))
        for number in range(first_batch, self.num_batches):
            epoch, batch = divmod(number, self.batches_per_epoch)
            start = batch * self.reader.batch_size
            size = min(self.reader.batch_size, self.reader.order.num_rows - start)
            own = rank_slice(size, self.world.rank, self.world.size)
            yield _batch(slices.until(epoch, start + size, batch, own.stop - own.start), size)

    def _slices(self, first_batch: int) -> Iterator[tuple[Window, Slice]]:
        """This rank's slices from the window on that holds the batch."""
        epoch, batch = divmod(first_batch, self.batches_per_epoch)
        windows = self._windows(epoch, batch * self.reader.batch_size)
        with _DataCpus(self.world, self.patience_seconds) as cpus:
            while some := list(islice(windows, WINDOWS_PER_PIPELINE)):
                share = _share(self.reader, some, cpus) if self.world.leads else b""
                # Handles of Ray's actors, from our own first rank: nothing that was stored.
                mine = pickle.loads(broadcast(self.world, share))[self.world.rank]
                for window, row in zip(some, _rows(mine), strict=True):
                    yield window, _slice_of(row, window, self.world.rank)

    def _windows(self, epoch: int, position: int) -> Iterator[Window]:
        last = (self.num_batches - 1) // self.batches_per_epoch
        for number in range(epoch, last + 1):
            for window in self.reader.order.windows(number):
                if number > epoch or window.stop > position:
                    yield window


class _Unread:
    """Slices that have arrived, taken out again batch by batch."""

    def __init__(self, slices: Iterator[tuple[Window, Slice]]) -> None:
        self._slices = slices
        self._epoch, self._covered = -1, 0
        self._parts: list[tuple[int, Slice]] = []  # (how many of its rows are taken, slice)

    def until(
        self, epoch: int, position: int, batch: int, count: int
    ) -> list[tuple[EncodedRows, float]]:
        """The `count` rows of a batch, which ends at `position` of the epoch, in parts; with the
        weight that each slice tells of it.
        """
        while self._epoch != epoch or self._covered < position:
            window, part = next(self._slices)
            skipped = int(part.counts[part.batches < batch].sum()) if not self._parts else 0
            if window.epoch != self._epoch:
                self._parts = []
            self._epoch, self._covered = window.epoch, window.stop
            self._parts.append((skipped, part))
        found: list[tuple[EncodedRows, float]] = []
        left: list[tuple[int, Slice]] = []
        for taken, part in self._parts:
            place = np.flatnonzero(part.batches == batch)
            own = int(part.counts[place].sum())
            found.append((part.own.slice(taken, taken + own), float(part.totals[place].sum())))
            if part.batches[-1] > batch:
                left.append((taken + own, part))
        self._parts = left
        assert sum(len(rows.rows) for rows, _ in found) == count
        return found


def _batch(found: list[tuple[EncodedRows, float]], size: int) -> Batch:
    own = EncodedRows.joined([rows for rows, _ in found])
    return Batch(own, size, sum(weight for _, weight in found))


class _DataCpus:
    """CPUs that only this training's pipeline may use. Rank 0 reserves them for all."""

    def __init__(self, world: World, patience_seconds: float) -> None:
        self.world, self.patience_seconds = world, patience_seconds

    def __enter__(self) -> Any:
        import ray
        from ray.util.placement_group import placement_group

        if not self.world.leads:
            return None
        self._group = placement_group([{"CPU": 1}] * DATA_CPUS)
        if not self._group.wait(self.patience_seconds):
            self.__exit__()
            total, free = ray.cluster_resources(), ray.available_resources()
            raise PlacementError(
                f"no CPU is free to stream the data after {self.patience_seconds / 60:g} minutes "
                f"(`limits.start_minutes`): it needs {DATA_CPUS} besides the workers', the "
                f"cluster has {total.get('CPU', 0):g}, {free.get('CPU', 0):g} of them free"
            )
        return self._group

    def __exit__(self, *_: object) -> None:
        if self.world.leads:
            from ray.util.placement_group import remove_placement_group

            remove_placement_group(self._group)


def _share(reader: WindowReader, windows: list[Window], cpus: Any) -> bytes:
    """A pipeline over the windows, split between the ranks: one iterator each."""
    import ray
    import ray.data
    from ray import cloudpickle
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # one slice, one block: none is cut, none are joined
    context.print_on_execution_start = False
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    held = ray.put(reader)

    def cut(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        own: WindowReader = ray.get(held)
        yield from _cut(own, own.order.windows(row["epoch"])[row["window"]])

    items = [{"epoch": window.epoch, "window": window.index} for window in windows]
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).flat_map(
            cut,
            num_cpus=1,
            concurrency=DATA_CPUS,
            scheduling_strategy=PlacementGroupSchedulingStrategy(cpus),
        )
        parts = dataset.streaming_split(reader.world_size, equal=False)
    return bytes(cloudpickle.dumps(parts))


def _cut(reader: WindowReader, window: Window) -> Iterator[dict[str, Any]]:
    """The slices of a window, in the order of the ranks. Damaged data is an answer, not a crash:
    Ray would retry a crash and lose the name.
    """
    try:
        for rank, part in enumerate(reader.slices(window)):
            yield {"rank": rank, "epoch": window.epoch, "window": window.index} | _packed(part)
    except DataError as error:
        first = error.problems[0]
        told = json.dumps([first.place, first.message, first.hint]).encode()
        for rank in range(reader.world_size):
            yield {"rank": rank, "epoch": window.epoch, "window": DAMAGED, "payload": told}


def _packed(part: Slice) -> dict[str, bytes]:
    sink = io.BytesIO()
    own = part.own
    np.savez(
        sink, numbers=own.inputs.numbers, categories=own.inputs.categories, target=own.target,
        rows=own.rows, weights=own.weights, batches=part.batches, counts=part.counts,
        totals=part.totals,
    )  # fmt: skip
    return {"payload": sink.getvalue()}


def _rows(iterator: Any) -> Iterator[dict[str, Any]]:
    for table in iterator.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from table.to_pylist()


def _slice_of(row: dict[str, Any], window: Window, rank: int) -> Slice:
    if row["window"] == DAMAGED:
        raise DataError(Problem(*json.loads(row["payload"])))
    if (row["rank"], row["epoch"], row["window"]) != (rank, window.epoch, window.index):
        raise RuntimeError(f"Ray Data gave rank {rank} the slice {row}, not that of {window}")
    arrays = np.load(io.BytesIO(row["payload"]))
    inputs = Inputs(arrays["numbers"], arrays["categories"])
    own = EncodedRows(inputs, arrays["target"], arrays["rows"], arrays["weights"])
    return Slice(own, arrays["batches"], arrays["counts"], arrays["totals"])
