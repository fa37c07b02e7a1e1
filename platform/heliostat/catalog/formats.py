"""Which reader a file's name asks for. What has no known suffix is taken for Parquet."""

from __future__ import annotations

from heliostat.catalog import arrow, parquet, text
from heliostat.catalog.columns import Footer
from heliostat.errors import DataError, Problem

PARQUET, ARROW, TEXT = "parquet", "arrow", "text"
SUFFIXES = {
    ".csv": TEXT, ".tsv": TEXT, ".jsonl": TEXT, ".ndjson": TEXT,
    ".arrow": ARROW, ".feather": ARROW, ".ipc": ARROW,
}  # fmt: skip
OTHERS = {".json": "JSON lines (.jsonl)", ".gz": "Parquet", ".zip": "Parquet", ".orc": "Parquet",
          ".avro": "Parquet", ".xlsx": "Parquet"}  # fmt: skip


def format_of(location: str) -> str:
    """The format of a file, by its name.

    Raises:
        DataError: a format that heliostat does not read.
    """
    suffix = text.suffix_of(location)
    if suffix in OTHERS:
        raise DataError(
            Problem(location, f"{suffix} files are not read", f"convert it to {OTHERS[suffix]}")
        )
    return SUFFIXES.get(suffix, PARQUET)


def read_footer(location: str) -> Footer:
    """What the file tells about itself.

    Raises:
        DataError: the file is not what its name says, or is damaged.
    """
    readers = {PARQUET: parquet.read_footer, ARROW: arrow.read_footer, TEXT: text.read_footer}
    return readers[format_of(location)](location)
