"""Write scikit-learn's handwritten digits as Parquet, for jobs/digits.yaml.

python jobs/digits.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits


def write_digits(path: Path) -> int:
    """Write one row an image, 64 pixel columns and `digit`; return the rows."""
    images, digits = load_digits(return_X_y=True)
    columns = {f"pixel_{i:02d}": images[:, i].astype("int8") for i in range(images.shape[1])}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns | {"digit": digits}), path, row_group_size=500)
    return len(digits)


if __name__ == "__main__":
    target = (
        Path(sys.argv[1])
        if len(sys.argv) > 1
        else Path(__file__).parent / "data" / "digits.parquet"
    )
    print(f"{write_digits(target):,} digits in {target}")
