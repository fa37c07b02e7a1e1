"""Write a corpus of real text as Parquet: the sources of Python's standard library, a module a
row. Works offline.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TARGET = Path(__file__).parent / "data" / "corpus" / "modules.parquet"
LARGEST_BYTES = 60_000


def main() -> None:
    """Write it, unless it is there."""
    if not TARGET.exists():
        write_corpus(TARGET)


def write_corpus(target: Path) -> None:
    """A module a row: its name, and its text."""
    library = Path(sysconfig.get_paths()["stdlib"])
    texts, names = [], []
    for path in sorted(library.glob("*.py")) + sorted(library.glob("[a-z]*/*.py")):
        content = path.read_bytes()
        if "site-packages" in path.parts or not 1_000 <= len(content) <= LARGEST_BYTES:
            continue
        texts.append(content.decode("utf-8", "replace"))
        names.append(str(path.relative_to(library)))
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"module": names, "text": texts}), target, row_group_size=64)
    print(f"{target}: {len(texts)} modules, {sum(map(len, texts)) / 1e6:.1f} million characters")


if __name__ == "__main__":
    main()
