"""Compiles request-time features to functions of one row, which avoid the fixed cost of a Polars query.

An expression is data (definitions.Derived). When all its parts are supported, it is compiled once to a function of a
row. Unsupported expressions are left to Polars, as are rows that reach a special case (an overflow, or clocks that
change within a quarter of an hour). The results equal those of Polars bit for bit.
"""

from __future__ import annotations

import io
import json
import operator
from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

import polars as pl

from features.definitions import Column, Derived

Value = int | float | str | None
Row = Mapping[str, Value]
"""Values by request column: float, str, or microseconds since the epoch; None for null."""

_DAY_US = 24 * 3_600_000_000
_QUARTER_US = 900_000_000
# Days from 0001-01-01, day 1, to the epoch.
_EPOCH_DAY = 719_163
_DAYS = (-_EPOCH_DAY + 1, date.max.toordinal() - _EPOCH_DAY)
_INTEGERS = {"Int8": 7, "Int16": 15, "Int32": 31, "Int64": 63}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Plus": operator.add, "Minus": operator.sub, "Multiply": operator.mul,
}  # fmt: skip


class FallbackRequired(Exception):
    """A row that Polars must evaluate."""


class _Unsupported(Exception):
    """An expression with a part that the compiler does not support."""


class CompiledExpression(NamedTuple):
    """A function of a row, and the Polars type of its result."""

    kind: str
    run: Callable[[Row], Any]
    zone: str = "UTC"
    """Time zone of a Datetime."""
    literal: int | float | None = None
    """The value of an untyped literal."""


def compile_derived(feature: Derived, columns: tuple[Column, ...]) -> Callable[[Row], Value] | None:
    """Compile a feature.

    Args:
        feature: The feature.
        columns: Request columns.

    Returns:
        A function of a row, which may raise ``FallbackRequired``; None when the expression is not supported.
    """
    try:
        expression = _compile(json.loads(feature.expression), {column.name: column.kind for column in columns})
        return _cast_to_kind(expression, feature.kind)
    except _Unsupported:
        return None


def _cast_to_kind(expression: CompiledExpression, kind: str) -> Callable[[Row], Value]:
    """The same cast as in feature_reader.request_features."""
    run, integer = expression.run, expression.kind in _INTEGERS
    if kind == "number" and (integer or expression.kind == "Float64"):
        return _float(run)
    if kind == "category" and (integer or expression.kind == "String"):
        return lambda row: None if (value := run(row)) is None else str(value)
    if kind == "timestamp" and expression.kind == "Datetime":
        return run
    raise _Unsupported


def _compile(node: Any, kinds: Mapping[str, str]) -> CompiledExpression:
    if not isinstance(node, dict) or len(node) != 1:
        raise _Unsupported
    ((name, body),) = node.items()
    if name == "Column" and body in kinds:
        return _column(body, kinds[body])
    if name == "Literal":
        return _literal(body)
    if name == "Alias":
        return _compile(body[0], kinds)
    if name == "Cast":
        return _cast(_compile(body["expr"], kinds), body["dtype"])
    if name == "BinaryExpr":
        return _binary(body["op"], _compile(body["left"], kinds), _compile(body["right"], kinds))
    if name == "Function" and isinstance(body["function"], dict) and len(body["input"]) == 1:
        return _temporal(body["function"].get("TemporalExpr"), _compile(body["input"][0], kinds))
    raise _Unsupported


def _column(name: str, kind: str) -> CompiledExpression:
    types = {"number": "Float64", "category": "String", "timestamp": "Datetime"}
    if kind not in types:
        raise _Unsupported
    return CompiledExpression(types[kind], operator.itemgetter(name))


def _literal(body: Any) -> CompiledExpression:
    if "Dyn" in body:
        ((kind, value),) = body["Dyn"].items()
        if kind in ("Int", "Float"):
            number = value if kind == "Int" else _parse_float(body)
            return CompiledExpression(kind, lambda row: number, literal=number)
    elif "Scalar" in body and isinstance(body["Scalar"], dict):
        ((kind, value),) = body["Scalar"].items()
        if kind == "Duration" and value[1] == "Microseconds":
            return CompiledExpression("Duration", lambda row: value[0])
        if kind in _INTEGERS or kind == "Float64":
            number = value if kind in _INTEGERS else _parse_float(body)
            return CompiledExpression(kind, lambda row: number)
    raise _Unsupported


def _parse_float(body: Any) -> float:
    """A literal float, parsed by Polars, which rounds the last digit of some differently from Python."""
    text = io.StringIO(json.dumps({"Literal": body}))
    return float(pl.select(pl.Expr.deserialize(text, format="json")).item())


def _cast(expression: CompiledExpression, to: Any) -> CompiledExpression:
    kind = to.get("Literal") if isinstance(to, dict) else None
    if expression.kind in _INTEGERS and isinstance(kind, str):
        if kind in _INTEGERS:
            return CompiledExpression(kind, _within(kind, expression.run))
        if kind == "Float64":
            return CompiledExpression(kind, _float(expression.run))
    raise _Unsupported


def _binary(op: str, left: CompiledExpression, right: CompiledExpression) -> CompiledExpression:
    if (left.kind, right.kind) == ("Datetime", "Duration") and op in ("Plus", "Minus"):
        return CompiledExpression("Datetime", _within("Int64", _lift(_ARITHMETIC[op], left.run, right.run)), left.zone)
    left, right = _supertype(left, right), _supertype(right, left)
    if op == "TrueDivide" and left.kind == right.kind == "Float64":
        return CompiledExpression("Float64", _lift(_quotient, left.run, right.run))
    if op not in _ARITHMETIC or left.kind != right.kind:
        raise _Unsupported
    run = _lift(_ARITHMETIC[op], left.run, right.run)
    if left.kind == "Float64":
        return CompiledExpression("Float64", run)
    if left.kind in _INTEGERS:
        return CompiledExpression(left.kind, _within(left.kind, run))
    raise _Unsupported


def _supertype(left: CompiledExpression, right: CompiledExpression) -> CompiledExpression:
    """Cast ``left`` to the common type that Polars chooses for it and ``right``."""
    if left.literal is not None and right.literal is not None:
        raise _Unsupported
    if left.literal is not None and right.kind in _INTEGERS and left.kind == "Int":
        if not -(1 << _INTEGERS[right.kind]) <= left.literal < 1 << _INTEGERS[right.kind]:
            raise _Unsupported
        return CompiledExpression(right.kind, left.run)
    if left.literal is not None and right.kind == "Float64":
        value = float(left.literal)
        return CompiledExpression("Float64", lambda row: value)
    if left.kind in _INTEGERS and right.kind in _INTEGERS:
        return CompiledExpression(max(left.kind, right.kind, key=_INTEGERS.__getitem__), left.run)
    return left


def _lift(
    do: Callable[[Any, Any], Any], left: Callable[[Row], Any], right: Callable[[Row], Any]
) -> Callable[[Row], Any]:
    def run(row: Row) -> Any:
        a, b = left(row), right(row)
        return None if a is None or b is None else do(a, b)

    return run


def _quotient(a: float, b: float) -> float:
    if b == 0.0:
        raise FallbackRequired
    return a / b


def _float(run: Callable[[Row], Any]) -> Callable[[Row], Any]:
    return lambda row: None if (value := run(row)) is None else float(value)


def _within(kind: str, run: Callable[[Row], Any]) -> Callable[[Row], Any]:
    limit = 1 << _INTEGERS[kind]

    def checked(row: Row) -> Any:
        value = run(row)
        if value is not None and not -limit <= value < limit:
            raise FallbackRequired
        return value

    return checked


def _temporal(function: Any, of: CompiledExpression) -> CompiledExpression:
    if of.kind != "Datetime":
        raise _Unsupported
    if isinstance(function, dict) and "ConvertTimeZone" in function:
        return of._replace(zone=function["ConvertTimeZone"]["inner"])
    if not isinstance(function, str) or function not in _PARTS:
        raise _Unsupported
    kind, part = _PARTS[function]
    run, zone = of.run, of.zone

    def read(row: Row) -> int | None:
        at = run(row)
        if at is None:
            return None
        local: int = at if zone == "UTC" else at + _offset(zone, at // _QUARTER_US)
        if not _DAYS[0] <= local // _DAY_US <= _DAYS[1]:
            raise FallbackRequired
        return part(local)

    return CompiledExpression(kind, read)


@lru_cache(maxsize=8192)
def _offset(zone: str, quarter: int) -> int:
    """Microseconds by which a zone is ahead of UTC in a quarter of an hour, numbered since the epoch; by Polars."""
    ends = pl.Series([quarter * _QUARTER_US, (quarter + 1) * _QUARTER_US - 1], dtype=pl.Int64).cast(
        pl.Datetime("us", "UTC")
    )
    local = ends.dt.convert_time_zone(zone).dt.replace_time_zone(None)
    first, last = (local.to_physical() - ends.to_physical()).to_list()
    if first != last:
        raise FallbackRequired
    return int(first)


def _date(local: int) -> date:
    return date.fromordinal(local // _DAY_US + _EPOCH_DAY)


_PARTS: dict[str, tuple[str, Callable[[int], int]]] = {
    "Second": ("Int8", lambda local: local // 1_000_000 % 60),
    "Minute": ("Int8", lambda local: local // 60_000_000 % 60),
    "Hour": ("Int8", lambda local: local // 3_600_000_000 % 24),
    # The epoch was a Thursday; Monday is 1.
    "WeekDay": ("Int8", lambda local: (local // _DAY_US + 3) % 7 + 1),
    "Day": ("Int8", lambda local: _date(local).day),
    "Month": ("Int8", lambda local: _date(local).month),
    "Year": ("Int32", lambda local: _date(local).year),
    "OrdinalDay": ("Int16", lambda local: _date(local).timetuple().tm_yday),
}
