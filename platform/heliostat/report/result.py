"""`result.json` as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from heliostat.storage.files import read_as, write_json
from heliostat.storage.objects import StorePath

FILE = "result.json"


@dataclass(frozen=True)
class Result:
    """What a finished run found out.

    `metrics[side][name]` with side in train, validation, test; `best` the winning
    configuration and its trial (None without a sweep); `rows` and `cleaning` count rows;
    `seconds` and `hours` say what each phase took; `digests` identify data, code and job;
    `folds` holds the validation metrics of each fold, `metrics["validation"]` their means.
    """

    name: str
    run: str
    objective: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]
    best: Mapping[str, Any] | None
    rows: Mapping[str, int]
    cleaning: Mapping[str, int]
    seconds: Mapping[str, float]
    hours: Mapping[str, float]
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    trials: Mapping[str, int] = field(default_factory=dict)
    folds: Sequence[Mapping[str, Any]] = ()

    @property
    def score(self) -> float | None:
        """The objective on test if there are test rows, else on validation."""
        for side in ("test", "validation", "train"):
            value = self.metrics.get(side, {}).get(str(self.objective["metric"]))
            if value is not None:
                return float(value)
        return None

    def save(self, folder: StorePath) -> None:
        """Publish `result.json` in a run folder."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, folder: StorePath) -> Result:
        """Read `result.json`; unknown keys of newer versions are ignored."""
        return read_as(folder / FILE, cls)
