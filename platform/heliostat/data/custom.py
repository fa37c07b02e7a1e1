"""Numbers by a class of the user's own: fitted, merged and applied; its state is JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.catalog.code import import_from
from heliostat.data.blocks import raw_column
from heliostat.data.pack import Packed
from heliostat.errors import Problem, UserError
from heliostat.plan.inputs import InputColumn, PackedColumn

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CustomTransform:
    """What `class_` in the folder `code` makes of its columns, `width` numbers a row."""

    name: str
    class_: str
    inputs: tuple[PackedColumn, ...]
    state: Any
    width: int
    code: str

    @classmethod
    def unfitted(cls, column: InputColumn, code: str) -> CustomTransform:
        """The transform before it has seen a row; the user's own classes lie in `code`."""
        return cls(column.name, column.class_, column.sources, None, 0, code)

    def learned(self, packed: Packed, rows: Rows) -> Any:
        """What the class learns from some rows.

        Raises:
            UserError: the class is not there, or fails.
        """
        return self._call("fit", self._columns(packed, rows))

    def merged(self, one: Any, other: Any) -> Any:
        """What it knows of both, the first rows' knowledge first."""
        return self._call("merge", one, other)

    def fitted(self, state: Any, packed: Packed) -> CustomTransform:
        """The transform with what was learned; it is asked for no rows, to see its width.

        Raises:
            UserError: the state is no JSON value, or `apply` fails.
        """
        try:
            state = json.loads(json.dumps(state))
        except (TypeError, ValueError) as error:
            raise self._problem(f"its state is no JSON value: {error}") from error
        fitted = replace(self, state=state)
        return replace(fitted, width=fitted.values(packed, np.arange(0)).shape[1])

    def values(self, packed: Packed, rows: Rows) -> npt.NDArray[np.float64]:
        """[rows, width]; what is not finite is missing.

        Raises:
            UserError: the class fails, or gives something of another shape.
        """
        answer = self._call("apply", self._columns(packed, rows), self.state)
        try:
            values = np.array(answer, np.float64)
        except (TypeError, ValueError) as error:
            raise self._problem(f"`apply` gave no numbers: {error}") from error
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or len(values) != len(rows) or self.width not in (0, values.shape[1]):
            wanted = f"{len(rows)} rows" + (f" of {self.width}" if self.width else "")
            raise self._problem(f"`apply` gave an array of shape {values.shape} for {wanted}")
        values[~np.isfinite(values)] = np.nan
        return values

    def to_json(self) -> dict[str, Any]:
        """As `model.json` keeps it; the code lies beside it."""
        value = asdict(self)
        value.pop("code")
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any], code: str) -> CustomTransform:
        """The transform that `to_json` wrote."""
        inputs = tuple(PackedColumn(**column) for column in value["inputs"])
        return cls(**(value | {"inputs": inputs, "code": code}))

    def _columns(self, packed: Packed, rows: Rows) -> dict[str, Any]:
        return {column.name: raw_column(packed, column, rows) for column in self.inputs}

    def _call(self, method: str, *arguments: Any) -> Any:
        instance = _instance(self.code, self.class_, self.name)
        try:
            return getattr(instance, method)(*arguments)
        except Exception as error:  # the user's own code may fail in any way
            raise self._problem(f"`{method}`: {type(error).__name__}: {error}") from error

    def _problem(self, message: str) -> UserError:
        return UserError(Problem(f"data.features.{self.name}", f"`{self.class_}`: {message}"))


@lru_cache(maxsize=64)
def _instance(code: str, class_: str, name: str) -> Any:
    module_name, _, class_name = class_.partition(":")
    key = f"data.features.{name}.class"
    module = import_from(Path(code).resolve(), module_name, key)
    found = getattr(module, class_name, None)
    lacking = [m for m in ("fit", "merge", "apply") if not callable(getattr(found, m, None))]
    if not isinstance(found, type) or lacking:
        what = f"has no {', '.join(lacking)}" if isinstance(found, type) else "is no class"
        raise UserError(Problem(key, f"`{class_}` {what}"))
    return found()
