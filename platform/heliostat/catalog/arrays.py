"""Arrow's arrays from words and to NumPy. Arrow's own ways load pandas, half a second that `plan`
and `init` have no use for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def text_array(words: Sequence[str]) -> pa.Array:
    """An array of texts."""
    encoded = [word.encode() for word in words]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = (pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(encoded)))
    return pa.StringArray.from_buffers(len(words), *buffers)


def whole_numbers(values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Integers of which none is missing; those that int64 has no room for wrap around."""
    whole = pc.cast(values.combine_chunks(), pa.int64(), safe=False)
    return np.frombuffer(whole.buffers()[1], np.int64)[whole.offset :][: len(whole)]


def real_numbers(values: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Numbers as float64; NaN where one is missing or infinite."""
    real = pc.cast(values.combine_chunks(), pa.float64(), safe=False)
    if not len(real):
        return np.empty(0)
    numbers = np.frombuffer(real.buffers()[1], np.float64)[real.offset :][: len(real)]
    is_known = whole_numbers(pa.chunked_array([pc.is_valid(real)])).astype(bool)
    return np.where(is_known & np.isfinite(numbers), numbers, np.nan)
