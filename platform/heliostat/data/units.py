"""One pass over units of work, by Ray Data or by threads of this process: the door through which
heliostat uses Ray Data.

A unit is a run of row groups, small enough for one task. The first failure ends the pass.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from heliostat.catalog.catalog import Catalog, RowGroup
from heliostat.errors import DataError, PlacementError, Problem, StorageError

ROWS_PER_UNIT = 65_536
DEFAULT_PATIENCE_SECONDS = 1200.0
JOIN_SECONDS = 15.0
WAIT_SECONDS = 0.25
ITEMS_PER_TASK, UNITS_PER_ITEM = 4, 64

_Run = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]


@dataclass(frozen=True)
class Unit:
    """Consecutive row groups, read and packed by one task."""

    index: int
    groups: tuple[RowGroup, ...]

    @property
    def num_rows(self) -> int:
        """Rows of all its groups."""
        return sum(group.num_rows for group in self.groups)


def units_of(catalog: Catalog) -> list[Unit]:
    """The catalog's row groups in runs of about 65,536 rows; a larger group is a unit."""
    units: list[Unit] = []
    run: list[RowGroup] = []
    rows = 0
    for group in catalog.row_groups:
        run.append(group)
        rows += group.num_rows
        if rows >= ROWS_PER_UNIT:
            units.append(Unit(len(units), tuple(run)))
            run, rows = [], 0
    if run:
        units.append(Unit(len(units), tuple(run)))
    return units


def run_units(
    units: Sequence[Unit],
    work: Callable[[Unit], dict[str, Any]],
    num_tasks: int,
    patience_seconds: float = DEFAULT_PATIENCE_SECONDS,
    waiting: Callable[[], None] = lambda: None,
    num_threads: int = 1,
) -> Iterator[dict[str, Any]]:
    """Yield `work(unit)` for every unit, as Ray Data finishes them, with `index` added; at
    most `num_tasks` are at work at once. Without tasks, `num_threads` of this process do all the
    work, and results come in the order of the units. `waiting` is called while nothing comes, and
    may raise.

    Raises:
        DataError: as soon as a unit meets damaged data; the message names file and row group.
        PlacementError: nothing came back for `patience_seconds`: the tasks get no CPU.
    """
    if not units:
        return
    if num_tasks == 0:
        for unit, result in _in_threads(units, work, min(num_threads, len(units))):
            waiting()
            yield result | {"index": unit.index}
        return
    num_tasks = min(num_tasks, len(units))
    rows = _rows(partial(_each, work), _items(units, num_tasks), num_tasks)
    for row in _within(rows, patience_seconds, waiting):
        waiting()
        answer = json.loads(row["answer"])
        if "problems" in answer:
            raise DataError([Problem(*problem) for problem in answer["problems"]])
        if "storage" in answer:
            raise StorageError(answer["storage"])
        yield answer["result"] | {"index": answer["index"]}


def _in_threads(
    units: Sequence[Unit], work: Callable[[Unit], dict[str, Any]], num_threads: int
) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """Units and their results, in order; no more results wait than there are threads. Whatever
    ends the pass, no thread is at work any more when it has ended.
    """
    if num_threads == 1:
        yield from ((unit, work(unit)) for unit in units)
        return
    begun: deque[tuple[Unit, Future[dict[str, Any]]]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="unit")
    try:
        for unit in units:
            begun.append((unit, pool.submit(work, unit)))
            if len(begun) == 2 * num_threads:
                first, result = begun.popleft()
                yield first, result.result()
        while begun:
            first, result = begun.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _items(units: Sequence[Unit], num_tasks: int) -> list[dict[str, Any]]:
    """Runs of units, a few for each task: Ray Data's own time an item is that of packing one."""
    num_items = min(len(units), max(num_tasks * ITEMS_PER_TASK, -(-len(units) // UNITS_PER_ITEM)))
    bounds = [len(units) * i // num_items for i in range(num_items + 1)]
    runs = [units[start:stop] for start, stop in pairwise(bounds)]
    return [
        {"units": json.dumps([{"index": u.index, "groups": _plain(u)} for u in run])}
        for run in runs
    ]


def _rows(run: _Run, items: list[dict[str, Any]], num_tasks: int) -> Iterable[dict[str, Any]]:
    return _one_task(run, items) if num_tasks == 1 else _ray_data(run, items, num_tasks)


def _ray_data(run: _Run, items: list[dict[str, Any]], num_tasks: int) -> Iterable[dict[str, Any]]:
    import ray.data  # a second of import; only these passes need it

    context = ray.data.DataContext.get_current()
    context.print_on_execution_start = False
    # It lets one task out and waits a second to see what comes; ours give back a few bytes.
    context.op_resource_reservation_enabled = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    rows: Iterable[dict[str, Any]] = dataset.flat_map(run, concurrency=num_tasks).iter_rows()
    return rows


def _one_task(run: _Run, items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What one task does needs no pipeline: Ray Data starts two actors for one, a second and a
    half of CPU each.
    """
    import ray

    task = ray.remote(num_cpus=1, num_returns="streaming")(_all)
    for reference in task.remote(run, items):
        yield ray.get(reference)


def _all(run: _Run, items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in items:
        yield from run(item)


def _within(
    rows: Iterable[dict[str, Any]], patience_seconds: float, waiting: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """`rows`, as long as one follows the other in time; Ray Data itself would wait for ever."""
    arrived: queue.Queue[Any] = queue.Queue()
    enough = threading.Event()

    def fetch() -> None:
        try:
            for row in rows:
                arrived.put(row)
                if enough.is_set():
                    return
            arrived.put(None)
        except Exception as error:  # raised again where the rows are wanted
            arrived.put(error)

    thread = threading.Thread(target=fetch, daemon=True, name="ray-data")
    thread.start()
    try:
        while True:
            row = _next(arrived, patience_seconds, waiting)
            if row is None:
                return
            if isinstance(row, Exception):
                raise row
            yield row
    except queue.Empty:
        raise PlacementError(_starving(patience_seconds)) from None
    finally:
        # Nobody may touch Ray from a thread while another shuts it down.
        enough.set()
        thread.join(JOIN_SECONDS)


def _next(arrived: queue.Queue[Any], patience_seconds: float, waiting: Callable[[], None]) -> Any:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return arrived.get(timeout=min(WAIT_SECONDS, patience_seconds))
        except queue.Empty:
            waiting()
            if time.monotonic() > deadline:
                raise


def _starving(patience_seconds: float) -> str:
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    return (
        f"no data task has ended for {patience_seconds / 60:g} minutes (`limits.start_minutes`): "
        f"each needs 1 CPU, the cluster has {total.get('CPU', 0):g}, {free.get('CPU', 0):g} of "
        "them free. If other jobs hold them, wait for their end, or use a larger cluster; if not, "
        "a data task hangs, or its process is stopped"
    )


def _plain(unit: Unit) -> list[tuple[Any, ...]]:
    return [tuple(vars(group).values()) for group in unit.groups]


def _each(work: Callable[[Unit], dict[str, Any]], row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Damaged data is an answer, not a crash: Ray would retry a crash and lose the name."""
    for value in json.loads(row["units"]):
        unit = Unit(value["index"], tuple(RowGroup(*group) for group in value["groups"]))
        try:
            answer = {"index": unit.index, "result": work(unit)}
        except DataError as error:
            problems = [[p.place, p.message, p.hint] for p in error.problems]
            answer = {"index": unit.index, "problems": problems}
        except StorageError as error:
            answer = {"index": unit.index, "storage": str(error)}
        yield {"answer": json.dumps(answer)}
