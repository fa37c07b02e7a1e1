"""Examples of every verb, as its `--help` shows them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "init": (
        "heliostat init flights.parquet --target late > job.yaml",
        "heliostat init 'flights/*.csv'",
    ),
    "plan": (
        "heliostat plan job.yaml",
        "heliostat plan job.yaml --set train.rounds=500 --diff late-flights",
    ),
    "prepare": ("heliostat prepare job.yaml",),
    "run": (
        "heliostat run job.yaml",
        "heliostat run base.yaml spot.yaml --set model.max_depth=8 --id nightly",
        "heliostat run --resume late-flights",
    ),
    "submit": (
        "heliostat submit job.yaml --to lab --wait",
        "heliostat submit job.yaml --to production --id nightly-2024-06-01",
    ),
    "render": ("heliostat render job.yaml --to production > rayjob.json",),
    "status": ("heliostat status", "heliostat status late-flights --json"),
    "logs": ("heliostat logs -f late-flights",),
    "stop": ("heliostat stop late-flights/nightly",),
    "report": ("heliostat report late-flights",),
    "evaluate": ("heliostat evaluate late-flights --data july.parquet",),
    "predict": (
        "heliostat predict late-flights --data august.parquet --out predictions",
        "heliostat predict flights@production --data s3://lake/august --out s3://lake/scored",
    ),
    "export": ("heliostat export letters --format huggingface --out letters-model",),
    "promote": ("heliostat promote late-flights flights@production --if-better",),
    "clean": ("heliostat clean --older-than 7d --dry-run",),
    "schema": ("heliostat schema > job.schema.json",),
}


def examples_of(verb: str) -> str:
    """What stands below a verb's options, each example on a line of its own."""
    lines = EXAMPLES.get(verb, ())
    return "\b\n" + "\n".join(
        ["Example:" if len(lines) == 1 else "Examples:", *(f"  {x}" for x in lines)]
    )
