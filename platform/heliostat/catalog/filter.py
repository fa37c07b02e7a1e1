"""`data.filter`: a row condition in words, as an Arrow expression.

Python's grammar, a part of its meaning: column names, numbers, strings, `true` and `false`;
comparisons, `in`, `is null`; `and`, `or`, `not`; `+ - * /`. A row whose condition is null
(a missing value was compared) does not take part.
"""

from __future__ import annotations

import ast
import datetime
import difflib
import operator
from collections.abc import Callable
from functools import lru_cache, reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from heliostat.catalog.columns import kind_of
from heliostat.errors import DataError, Problem

COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
SUMS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
MAX_TERMS = 500  # Arrow calls itself once for each
WORDS = {"true": True, "false": False, "null": None}


def filter_names(text: str) -> set[str]:
    """The columns that a filter looks at.

    Raises:
        DataError: `text` is no expression.
    """
    names = {node.id for node in ast.walk(_tree(text)) if isinstance(node, ast.Name)}
    return names - WORDS.keys()


@lru_cache(maxsize=64)
def filter_expression(text: str, schema: pa.Schema) -> pc.Expression:
    """The filter over tables of this schema.

    Raises:
        DataError: an unknown column, something that is no condition, types that do not compare.
    """
    try:
        expression = _Builder(text, schema).build(_tree(text))
        schema.empty_table().filter(expression)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _problem(f"`{text}`: {error}") from error
    return expression


def _tree(text: str) -> ast.expr:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _problem(f"`{text[:200]}` is no condition: {error}") from error
    if _num_terms(tree) > MAX_TERMS:
        raise _problem(f"has more than {MAX_TERMS} terms", "compare with a list: `x in [1, 2]`")
    return tree


def _num_terms(tree: ast.expr) -> int:
    """Comparisons, words between them, and sums; but not the values of a list."""
    counts = {ast.BoolOp: "values", ast.Compare: "comparators"}
    terms = (ast.BoolOp, ast.Compare, ast.BinOp, ast.UnaryOp)
    found = [node for node in ast.walk(tree) if isinstance(node, terms)]
    return sum(len(getattr(node, counts.get(type(node), ""), (node,))) for node in found)


def _problem(message: str, hint: str = "") -> DataError:
    hint = hint or 'write it like `month <= 6 and carrier in ["UA", "AA"]`'
    return DataError(Problem("data.filter", message, hint))


def _moment(value: Any, zone: str | None) -> pa.Scalar:
    """A time in words, for a column of times with a zone or without; without one it is in UTC."""
    try:
        moment = datetime.datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise _problem(f"`{value}` is no date", "write it like `2013-07-01`") from None
    if zone is None and moment.tzinfo is not None:
        raise _problem(f"`{value}` has a time zone, the column has none", "leave the zone out")
    if zone is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return pa.scalar(moment, pa.timestamp("us", zone))


class _Builder:
    def __init__(self, text: str, schema: pa.Schema) -> None:
        self.text, self.schema = text, schema

    def build(self, node: ast.expr) -> Any:
        """The expression of a node that stands for true or false."""
        if isinstance(node, ast.BoolOp):
            parts = [self.build(value) for value in node.values]
            join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            whole = parts[0]
            for part in parts[1:]:
                whole = join(whole, part)
            return whole
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.build(node.operand)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Name):
            return self._value(node)
        raise self._refusal(node)

    def _comparison(self, node: ast.Compare) -> Any:
        sides = [node.left, *node.comparators]
        whole: Any = None
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            part = self._compared(left, op, right)
            whole = part if whole is None else whole & part
        return whole

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(op, (ast.In, ast.NotIn)):
            if not isinstance(right, (ast.List, ast.Tuple, ast.Set)):
                raise self._refusal(right)
            inside = self._inside(left, right.elts)
            return inside if isinstance(op, ast.In) else ~inside
        if isinstance(op, (ast.Is, ast.IsNot)):
            empty = self._value(left).is_null(nan_is_null=True)
            return empty if isinstance(op, ast.Is) else ~empty
        type_ = self._type(left) or self._type(right)
        return COMPARISONS[type(op)](self._value(left, type_), self._value(right, type_))

    def _inside(self, left: ast.expr, listed: list[ast.expr]) -> Any:
        type_ = self._type(left)
        values = [self._constant(value, type_) for value in listed]
        if type_ is None or kind_of(type_) != "time" or not values:
            return self._value(left).isin(values)
        # Only one by one are times of other units compared.
        return reduce(operator.or_, (self._value(left) == pc.scalar(v) for v in values))

    def _value(self, node: ast.expr, type_: pa.DataType | None = None) -> Any:
        if isinstance(node, ast.Name) and node.id not in WORDS:
            if node.id not in self.schema.names:
                close = difflib.get_close_matches(node.id, self.schema.names, n=1)
                some = ", ".join(self.schema.names[:12])
                hint = f"did you mean `{close[0]}`?" if close else f"columns: {some}"
                raise _problem(f"the source has no column `{node.id}`", hint)
            return pc.field(node.id)
        if isinstance(node, ast.BinOp) and type(node.op) in SUMS:
            return SUMS[type(node.op)](
                self._value(node.left, type_), self._value(node.right, type_)
            )
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return pc.scalar(0) - self._value(node.operand, type_)
        return pc.scalar(self._constant(node, type_))

    def _constant(self, node: ast.expr, type_: pa.DataType | None) -> Any:
        if isinstance(node, ast.Name) and node.id in WORDS:
            return WORDS[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._constant(node.operand, None)
            if isinstance(inner, (int, float)):
                return -inner
        value = node.value if isinstance(node, ast.Constant) else None
        if not isinstance(value, (int, float, str)):
            raise self._refusal(node)
        kind = None if type_ is None else kind_of(type_)
        if kind == "time":
            return _moment(value, getattr(type_, "tz", None))
        if kind == "category" and not isinstance(value, str):
            hint = f'write it as it stands there, like `"{value}"` or `"0{value}"`'
            raise _problem(f"compares text with the number {value}", hint)
        return value

    def _type(self, node: ast.expr) -> pa.DataType | None:
        if isinstance(node, ast.Name) and node.id in self.schema.names:
            return self.schema.field(node.id).type
        return None

    def _refusal(self, node: ast.expr) -> DataError:
        return _problem(f"`{ast.unparse(node)}` is not part of the language of filters")
