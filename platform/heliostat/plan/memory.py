"""How much memory a fit needs, by formula, before anything is read.

Widths count a category once: how many values it has is known only after preparation, so
these are lower bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from heliostat.catalog.vocabulary import read_vocabulary
from heliostat.spec.job import JobSpec
from heliostat.spec.model import (
    ForestModel,
    GptModel,
    NeighborsModel,
    SupportVectorModel,
    TreeModel,
)

MOST_LOGITS = 2**27  # at once: of more, the loss is computed in pieces
NODE_BYTES = 72  # one node of scikit-learn's tree: 64 bytes and at least one value


@dataclass(frozen=True)
class MemoryNeed:
    """A number of bytes, and the sum that gives it."""

    num_bytes: int
    sum: str


def memory_need(spec: JobSpec, num_rows: int, width: int) -> MemoryNeed:
    """What one worker holds while it trains on `num_rows` rows of `width` inputs."""
    if spec.model.family == "classic":
        return _classic(spec, num_rows, width)
    local = -(-num_rows // spec.scale.min_workers)
    if spec.model.family == "boosted":
        # The float32 matrix that is quantised, one byte a bin, and gradients and margins.
        total = local * (width * 5 + 24)
        return MemoryNeed(total, f"{local:,} rows x ({width} columns x 5 + 24) bytes")
    if isinstance(spec.model, GptModel):
        model, micro = spec.model, spec.scale.micro_batch_size
        rows = -(-spec.train.batch_size // spec.scale.num_workers) if micro == "auto" else micro
        tokens = model.vocab_size or read_vocabulary(model.tokenizer, model.end_token).size
        num_logits = rows * model.max_tokens * tokens
        total = min(num_logits, MOST_LOGITS) * 8
        text = f"logits of {rows} x {model.max_tokens} tokens x {tokens} x 8 bytes"
        if num_logits > MOST_LOGITS:
            text = f"{MOST_LOGITS:,} logits at once x 8 bytes"
        return MemoryNeed(total, text)
    window = min(local, 65_536)
    total = window * (width + 2) * 8
    return MemoryNeed(total, f"a window of {window:,} rows x {width + 2} values x 8 bytes")


def _classic(spec: JobSpec, num_rows: int, width: int) -> MemoryNeed:
    model = spec.model
    # The float32 rows as read, and scikit-learn's own copy in its own type.
    copies, item = (2, 4) if isinstance(model, (TreeModel, ForestModel)) else (3, 8)
    if isinstance(model, (NeighborsModel, SupportVectorModel)):
        copies = 4
    total = num_rows * width * item * copies
    text = f"{num_rows:,} rows x {width} columns x {item} bytes x {copies} copies"
    if isinstance(model, ForestModel):
        nodes = 2 * num_rows // model.min_samples_leaf
        if model.max_depth is not None:
            nodes = min(nodes, 2 ** (model.max_depth + 1))
        total += model.n_estimators * nodes * NODE_BYTES
        text += f" + {model.n_estimators} trees x {nodes:,} nodes x {NODE_BYTES} bytes"
    return MemoryNeed(total, text)


def machine_memory_bytes() -> int | None:
    """This machine's memory; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def format_bytes(num_bytes: float) -> str:
    """`1.5 GiB`, as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
