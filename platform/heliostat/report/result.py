"""`result.json` as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from heliostat.report.console import number_text
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
        """The objective on the rows of `scored_on`."""
        split = self.scored_on
        return None if split is None else float(self.metrics[split][self.objective["metric"]])

    @property
    def scored_on(self) -> str | None:
        """The split that tells most: test if the objective has a value there, else validation."""
        metric = str(self.objective["metric"])
        splits = ("test", "validation", "train")
        return next((s for s in splits if self.metrics.get(s, {}).get(metric) is not None), None)

    @property
    def headline(self) -> str:
        """`test auc 0.9055`."""
        words = [self.scored_on, self.objective["metric"], number_text(self.score)]
        return " ".join(str(word) for word in words if word is not None)

    def save(self, folder: StorePath) -> None:
        """Publish `result.json` in a run folder."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, folder: StorePath) -> Result:
        """Read `result.json`; unknown keys of newer versions are ignored."""
        return read_as(folder / FILE, cls)
