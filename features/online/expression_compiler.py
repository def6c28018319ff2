"""Compiles derived features to functions of one row, which avoid the fixed cost of a Polars query.

An expression is data (definitions.Derived). When all its parts are supported, it is compiled once to a function of a
row. Unsupported expressions are left to Polars, as are rows that reach a special case (an overflow, or clocks that
change within a quarter of an hour). The results equal those of Polars bit for bit.
"""

from __future__ import annotations

import io
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from features.definitions import Column, Derived

Value = int | float | str | None
Row = Mapping[str, Value]
"""Values by column: float, str, or microseconds since the epoch; None for null."""

_DAY_US = 24 * 3_600_000_000
_QUARTER_US = 900_000_000
# Days from 0001-01-01, day 1, to the epoch.
_EPOCH_DAY = 719_163
_DAYS = (-_EPOCH_DAY + 1, date.max.toordinal() - _EPOCH_DAY)
_INTEGERS = {"Int8": 7, "Int16": 15, "Int32": 31, "Int64": 63}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Plus": operator.add, "Minus": operator.sub, "Multiply": operator.mul,
}  # fmt: skip
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "Eq": operator.eq, "NotEq": operator.ne,
    "Gt": operator.gt, "GtEq": operator.ge, "Lt": operator.lt, "LtEq": operator.le,
}  # fmt: skip
# The bits that the processor gives to 0 / 0.
with np.errstate(invalid="ignore"):
    _NAN = float(np.divide(np.zeros(1), np.zeros(1))[0])


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
    constant: bool = False
    """Whether it uses no column."""


def compile_derived(feature: Derived, columns: Sequence[Column]) -> Callable[[Row], Value] | None:
    """Compile a feature.

    Args:
        feature: The feature.
        columns: The columns that it may use.

    Returns:
        A function of a row, which may raise ``FallbackRequired``; None when the expression is not supported.
    """
    try:
        expression = _compile(json.loads(feature.expression), {column.name: column.kind for column in columns})
        return _cast_to_kind(expression, feature.kind)
    except _Unsupported:
        return None


def _cast_to_kind(expression: CompiledExpression, kind: str) -> Callable[[Row], Value]:
    """The same cast as in features/derived_columns.py."""
    run, integer = expression.run, expression.kind in _INTEGERS
    if kind == "number" and (integer or expression.kind in ("Boolean", "Float64")):
        return _lift_one(float, run)
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
    if name == "Ternary":
        return _choose(*(_compile(body[part], kinds) for part in ("predicate", "truthy", "falsy")))
    if name == "Cast":
        return _cast(_compile(body["expr"], kinds), body["dtype"])
    if name == "BinaryExpr":
        return _binary(body["op"], _compile(body["left"], kinds), _compile(body["right"], kinds))
    if name == "Function":
        return _function(body["function"], [_compile(of, kinds) for of in body["input"]])
    raise _Unsupported


def _function(function: Any, of: list[CompiledExpression]) -> CompiledExpression:
    if function in ("Coalesce", "FillNull") and len(of) == 2:
        return _fill_null(*_unify(*of))
    if isinstance(function, dict) and len(of) == 1:
        if "TemporalExpr" in function:
            return _temporal(function["TemporalExpr"], of[0])
        if function.get("Boolean") in ("IsNull", "IsNotNull") and not of[0].constant:
            run, expected = of[0].run, function["Boolean"] == "IsNull"
            return CompiledExpression("Boolean", lambda row: (run(row) is None) is expected)
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
            return CompiledExpression(kind, lambda row: number, literal=number, constant=True)
    elif "Scalar" in body and isinstance(body["Scalar"], dict):
        ((kind, value),) = body["Scalar"].items()
        if kind == "Duration" and value[1] == "Microseconds":
            return CompiledExpression("Duration", lambda row: value[0], constant=True)
        if kind in _INTEGERS or kind == "Float64":
            number = value if kind in _INTEGERS else _parse_float(body)
            return CompiledExpression(kind, lambda row: number, constant=True)
        if kind in ("Null", "String"):
            text = value if kind == "String" else None
            return CompiledExpression(kind, lambda row: text, constant=True)
    raise _Unsupported


def _parse_float(body: Any) -> float:
    """A literal float, parsed by Polars, which rounds the last digit of some differently from Python."""
    text = io.StringIO(json.dumps({"Literal": body}))
    return float(pl.select(pl.Expr.deserialize(text, format="json")).item())


def _cast(expression: CompiledExpression, to: Any) -> CompiledExpression:
    kind, run = to.get("Literal") if isinstance(to, dict) else None, expression.run
    if (expression.kind == "Boolean" or expression.kind in _INTEGERS) and isinstance(kind, str):
        if kind in _INTEGERS:
            whole = _lift_one(int, run) if expression.kind == "Boolean" else run
            return CompiledExpression(kind, _within(kind, whole), constant=expression.constant)
        if kind == "Float64":
            return CompiledExpression(kind, _lift_one(float, run), constant=expression.constant)
    raise _Unsupported


def _binary(op: str, left: CompiledExpression, right: CompiledExpression) -> CompiledExpression:
    if (left.kind, right.kind) == ("Datetime", "Duration") and op in ("Plus", "Minus"):
        return CompiledExpression("Datetime", _within("Int64", _lift(_ARITHMETIC[op], left.run, right.run)), left.zone)
    left, right = _unify(left, right)
    if op in _COMPARISONS:
        return _compare(op, left, right)
    if op == "TrueDivide":
        return _divide(left, right)
    if op == "Minus" and left.kind == "Datetime" and left.zone == right.zone:
        return CompiledExpression("Duration", _within("Int64", _lift(operator.sub, left.run, right.run)))
    if op not in _ARITHMETIC or (left.constant and right.constant):
        raise _Unsupported
    run = _shortcut(op, left, right) or _lift(_ARITHMETIC[op], left.run, right.run)
    if left.kind == "Float64":
        return CompiledExpression("Float64", run)
    if left.kind in _INTEGERS:
        return CompiledExpression(left.kind, _within(left.kind, run))
    raise _Unsupported


def _unify(left: CompiledExpression, right: CompiledExpression) -> tuple[CompiledExpression, CompiledExpression]:
    """Cast both to their common type."""
    left, right = _supertype(left, right), _supertype(right, left)
    if left.kind != right.kind:
        raise _Unsupported
    return left, right


def _shortcut(op: str, left: CompiledExpression, right: CompiledExpression) -> Callable[[Row], Any] | None:
    """Addition and subtraction of a constant 0, which Polars leaves out: -0.0 + 0.0 stays -0.0."""
    if op in ("Plus", "Minus") and right.constant and right.run({}) == 0:
        return left.run
    if op in ("Plus", "Minus") and left.constant and left.run({}) == 0:
        return right.run if op == "Plus" else _lift_one(operator.neg, right.run)
    return None


def _compare(op: str, left: CompiledExpression, right: CompiledExpression) -> CompiledExpression:
    if left.kind not in ("Float64", "String", *_INTEGERS) or (left.constant and right.constant):
        raise _Unsupported
    do = _COMPARISONS[op]

    def compare(a: Any, b: Any) -> bool:
        # To Polars, NaN equals NaN and exceeds all numbers.
        if a != a or b != b:
            raise FallbackRequired
        return do(a, b)

    return CompiledExpression("Boolean", _lift(compare, left.run, right.run))


def _divide(left: CompiledExpression, right: CompiledExpression) -> CompiledExpression:
    """Divide numbers of one type; by a constant as Polars does, by multiplying with its reciprocal."""
    if (left.kind != "Float64" and left.kind not in _INTEGERS) or (left.constant and right.constant):
        raise _Unsupported
    top, bottom = _lift_one(float, left.run), _lift_one(float, right.run)
    if not right.constant:
        return CompiledExpression("Float64", _lift(_quotient, top, bottom))
    divisor = bottom({})
    if divisor is None:
        raise _Unsupported
    reciprocal = _quotient(1.0, divisor)
    return CompiledExpression("Float64", lambda row: None if (value := top(row)) is None else value * reciprocal)


def _choose(
    condition: CompiledExpression, then: CompiledExpression, otherwise: CompiledExpression
) -> CompiledExpression:
    if condition.kind != "Boolean":
        raise _Unsupported
    test, (yes, no) = condition.run, _unify_values(then, otherwise)
    return yes._replace(run=lambda row: yes.run(row) if test(row) else no.run(row), literal=None, constant=False)


def _unify_values(one: CompiledExpression, other: CompiledExpression) -> tuple[CompiledExpression, CompiledExpression]:
    """Cast both to their common type, where null fits any."""
    if one.kind == "Null" or other.kind == "Null":
        kind = one if other.kind == "Null" else other
        if kind.kind == "Null" or kind.literal is not None:
            raise _Unsupported
        return kind._replace(run=one.run), kind._replace(run=other.run)
    return _unify(one, other)


def _fill_null(values: CompiledExpression, replacement: CompiledExpression) -> CompiledExpression:
    if values.constant or values.kind not in ("Float64", "String", *_INTEGERS):
        raise _Unsupported
    run, other = values.run, replacement.run
    return CompiledExpression(values.kind, lambda row: other(row) if (value := run(row)) is None else value)


def _supertype(left: CompiledExpression, right: CompiledExpression) -> CompiledExpression:
    """Cast ``left`` to the common type that Polars chooses for it and ``right``."""
    if left.literal is not None and right.literal is not None:
        raise _Unsupported
    if left.literal is not None and right.kind in _INTEGERS and left.kind == "Int":
        if not -(1 << _INTEGERS[right.kind]) <= left.literal < 1 << _INTEGERS[right.kind]:
            raise _Unsupported
        return CompiledExpression(right.kind, left.run, constant=True)
    if left.literal is not None and right.kind == "Float64":
        value = float(left.literal)
        return CompiledExpression("Float64", lambda row: value, constant=True)
    if left.kind in _INTEGERS and right.kind in _INTEGERS:
        return left._replace(kind=max(left.kind, right.kind, key=_INTEGERS.__getitem__))
    return left


def _lift(
    do: Callable[[Any, Any], Any], left: Callable[[Row], Any], right: Callable[[Row], Any]
) -> Callable[[Row], Any]:
    def run(row: Row) -> Any:
        a, b = left(row), right(row)
        return None if a is None or b is None else do(a, b)

    return run


def _lift_one(do: Callable[[Any], Any], of: Callable[[Row], Any]) -> Callable[[Row], Any]:
    return lambda row: None if (value := of(row)) is None else do(value)


def _quotient(a: float, b: float) -> float:
    """Divide as the processor does."""
    if b != 0.0:
        return a / b
    if a == 0.0 or a != a:
        return _NAN if a == 0.0 else a
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _within(kind: str, run: Callable[[Row], Any]) -> Callable[[Row], Any]:
    limit = 1 << _INTEGERS[kind]

    def checked(row: Row) -> Any:
        value = run(row)
        if value is not None and not -limit <= value < limit:
            raise FallbackRequired
        return value

    return checked


def _temporal(function: Any, of: CompiledExpression) -> CompiledExpression:
    if of.kind == "Duration" and isinstance(function, dict) and not of.constant:
        ((name, options),) = function.items()
        return _length(name, options == {"fractional": True}, of.run)
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


def _length(name: str, fractional: bool, run: Callable[[Row], Any]) -> CompiledExpression:
    """A duration in a unit: a fraction, or whole ones, rounded toward zero."""
    if name not in _UNITS:
        raise _Unsupported
    unit = _UNITS[name]
    if fractional:
        return CompiledExpression("Float64", _lift_one(lambda us: float(us) * (1.0 / unit), run))
    return CompiledExpression("Int64", _lift_one(lambda us: us // unit if us >= 0 else -(-us // unit), run))


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


_UNITS = {
    "TotalDays": _DAY_US,
    "TotalHours": 3_600_000_000,
    "TotalMinutes": 60_000_000,
    "TotalSeconds": 1_000_000,
    "TotalMilliseconds": 1_000,
    "TotalMicroseconds": 1,
}
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
