"""A prepared copy, mapped into memory: shards, and columns across all of them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heliostat.catalog.catalog import RowGroup
from heliostat.data.hashing import Hashes, key_of, row_hashes
from heliostat.data.pack import Packed, unpack
from heliostat.errors import ArtifactError
from heliostat.storage.cache import local_copy
from heliostat.storage.files import read_json, understood
from heliostat.storage.objects import StorePath

MANIFEST = "manifest.json"
GROUP_FIELDS = [field.name for field in fields(RowGroup)]


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of a shard that come from one file of the source."""

    path: str
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class StreamFacts:
    """What a copy of few rows says about the many it leaves in the source: the row groups, how
    many training rows each has, and why others were dropped. `bounds` part the sides of a
    random split by the rows' hashes, `schema` is what each file is cast to.
    """

    groups: tuple[RowGroup, ...]
    train_rows: npt.NDArray[np.int64]
    dropped: Mapping[str, int]
    bounds: tuple[int, ...]
    schema: pa.Schema

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StreamFacts:
        """The facts as the manifest keeps them."""
        groups = []
        for entry in value["groups"]:
            group = dict(zip(GROUP_FIELDS, entry, strict=False))
            group["constants"] = tuple(tuple(constant) for constant in group["constants"])
            groups.append(RowGroup(**group))
        train_rows = np.array(value["train_rows"], np.int64)
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(value["schema"])))
        return cls(tuple(groups), train_rows, value["dropped"], tuple(value["bounds"]), schema)


@dataclass(frozen=True)
class Prepared:
    """Rows are numbered through all shards in catalog order; `offsets[i]` is the first row of
    shard i, and `offsets[-1]` the number of rows. `filtered` rows of the source are not here.
    `contents` are the hashes of what the rows hold, of the shards that were packed with them.
    """

    folder: Path
    digest: str
    shards: tuple[Packed, ...]
    segments: tuple[tuple[Segment, ...], ...]
    offsets: npt.NDArray[np.int64]
    infinite: dict[str, int]
    filtered: int
    stream: StreamFacts | None = None
    contents: Mapping[int, Hashes] = field(default_factory=dict)

    @classmethod
    def of_batch(cls, packed: Packed) -> Prepared:
        """A packed batch in memory, to be read like a copy of one shard."""
        offsets = np.array([0, packed.num_rows], np.int64)
        return cls(Path(), "", (packed,), ((),), offsets, {}, 0)

    @classmethod
    def open(cls, folder: StorePath) -> Prepared:
        """Map the copy in `folder`; a second call in the same process shares the first's maps. Of
        an object store it maps what it has copied to this machine.

        Raises:
            ArtifactError: the manifest or a shard is damaged.
        """
        return _open(local_copy(folder))

    @property
    def num_rows(self) -> int:
        """Rows of the source that its filter keeps."""
        return int(self.offsets[-1])

    def hashes(self, seed: int) -> Hashes:
        """A hash of (seed, file path, row in the file) for every row."""
        parts = [self.shard_hashes(seed, index) for index in range(len(self.shards))]
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def shard_hashes(self, seed: int, index: int) -> Hashes:
        """The hashes of one shard's rows."""
        shard, parts, at = self.shards[index], [np.empty(0, np.uint64)], 0
        for segment in self.segments[index]:
            end = at + segment.num_rows
            rows = np.arange(segment.first_row, segment.first_row + segment.num_rows)
            rows = rows if shard.rows is None else shard.rows[at:end]
            parts.append(row_hashes(key_of(seed, segment.path), rows))
            at = end
        return np.concatenate(parts)

    def number(self, name: str) -> npt.NDArray[np.float32]:
        """A `number` column of all rows."""
        i = self._number_index[name]
        return np.concatenate([shard.numbers[:, i] for shard in self.shards])

    def spans(self) -> Iterator[tuple[Packed, int, int]]:
        """Each shard with its first row and the one after its last."""
        for shard, start in zip(self.shards, self.offsets, strict=False):
            yield shard, int(start), int(start) + shard.num_rows

    @cached_property
    def _number_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.shards[0].number_names)}


@lru_cache(maxsize=4)
def _open(folder: Path) -> Prepared:
    with understood(folder / MANIFEST):
        return _read(folder)


def _read(folder: Path) -> Prepared:
    manifest = read_json(folder / MANIFEST)
    shards, segments = [], []
    infinite: dict[str, int] = {}
    contents = {}
    for index, entry in enumerate(manifest["shards"]):
        if "hashes" in entry:
            contents[index] = np.load(folder / entry["hashes"], mmap_mode="r")
        shards.append(_map_shard(folder / entry["file"], entry["rows"]))
        segments.append(tuple(Segment(*segment) for segment in entry["segments"]))
        for name, count in entry["infinite"].items():
            infinite[name] = infinite.get(name, 0) + count
    offsets = np.cumsum([0, *(shard.num_rows for shard in shards)], dtype=np.int64)
    digest = manifest["digest"]
    return Prepared(
        folder,
        digest,
        tuple(shards),
        tuple(segments),
        offsets,
        infinite,
        manifest.get("filtered", 0),
        StreamFacts.from_json(manifest["stream"]) if manifest.get("stream") else None,
        contents,
    )


def _map_shard(path: Path, num_rows: int) -> Packed:
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path}: is damaged ({error}); delete {path.parent}") from error
    if batch.num_rows != num_rows:
        raise ArtifactError(f"{path}: has {batch.num_rows} rows, the manifest says {num_rows}")
    return unpack(batch)
