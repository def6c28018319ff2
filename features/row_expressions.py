"""Polars expressions that are stored as JSON: what they may hold, and how they are read.

A manifest comes from a model registry, which many people can write to. Polars itself would load any shared object that
an expression names (``FfiPlugin``), unpickle Python functions and read files. So the JSON is checked against a list of
what computes a row's value from the same row, before Polars sees it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from pydantic import field_validator

from cluster.errors import ProjectError
from cluster.values import Frozen


class RowExpression(Frozen):
    """A named Polars expression over columns of the same row, stored as JSON."""

    name: str
    expression: str
    """The expression as JSON; one that looks at other rows is refused."""

    @field_validator("expression")
    @classmethod
    def _computes_by_row(cls, expression: str) -> str:
        require_row_expression(expression)
        return expression

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns that the expression reads."""
        return tuple(parse_expression(self.expression).meta.root_names())


_REFUSED_MEMBERS: dict[str, frozenset[str]] = {
    # ToStruct may name its fields by a Python function; the others look at other rows.
    "ArrayExpr": frozenset({"ToStruct"}),
    "Bitwise": frozenset({"And", "Or", "Xor"}),
    "Boolean": frozenset({"All", "Any", "IsDuplicated", "IsFirstDistinct", "IsLastDistinct", "IsUnique"}),
    "ListExpr": frozenset({"ToStruct"}),
    "Pow": frozenset(),
    "StringExpr": frozenset({"ConcatVertical"}),
    "TemporalExpr": frozenset(),
    "Trigonometry": frozenset(),
}
"""By group of functions, those that are not accepted; the name of the function is inside the group."""
_FUNCTIONS = _REFUSED_MEMBERS.keys() | {
    "Abs", "Ceil", "Clip", "Coalesce", "Cut", "Exp", "FillNull", "Floor", "Hash", "Log", "Log1p", "MaxHorizontal",
    "MeanHorizontal", "MinHorizontal", "Negate", "Replace", "ReplaceStrict", "Round", "RoundSF", "Sign",
    "SumHorizontal",
}  # fmt: skip
_DTYPES = frozenset({"Array", "Datetime", "Decimal", "Duration", "List", "Literal"})
"""Names of parametrized types, which options of functions may hold."""
_LITERALS = frozenset({"Dyn", "Scalar", "Series"})


def parse_expression(text: str) -> pl.Expr:
    """Read an expression that ``require_row_expression`` accepts."""
    return pl.Expr.deserialize(io.StringIO(text), format="json")


def require_row_expression(text: str) -> None:
    """Refuse an expression that could run code, read files, or look at other rows.

    Raises:
        ProjectError: It calls a Python function, or holds a part that is not on the list.
    """
    for part in _disallowed(json.loads(text)):
        if part.startswith(("AnonymousFunction", "Python")):
            raise ProjectError("project.derived_calls_python")
        raise ProjectError("project.derived_not_by_row", part=part)


def require_kind(feature: str, kind: str, expression: pl.Expr, schema: Mapping[str, pl.DataType]) -> None:
    """Check, before there are rows, that an expression gives values of its kind.

    Args:
        feature: Name of the derived feature.
        kind: Its kind.
        expression: Its expression.
        schema: Types of the columns that the expression may use.

    Raises:
        ProjectError: Its values are of another type, such as a duration for a number, or it fails for such columns.
    """
    try:
        dtype = pl.DataFrame(schema=schema).lazy().select(expression).collect_schema().dtypes()[0]
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise ProjectError("project.derived_kind", feature=feature, kind=kind, reason=reason) from error
    is_number = dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)
    is_text, is_time = is_number or dtype == pl.String, dtype in (pl.Datetime, pl.Null)
    if not {"number": is_number, "category": is_text, "timestamp": is_time}.get(kind, False):
        reason = f"its values are {dtype}"
        raise ProjectError("project.derived_kind", feature=feature, kind=kind, reason=reason)


def _disallowed(node: Any) -> Iterator[str]:
    """Names of the parts of an expression that are not on the list, outermost first."""
    match node:
        case {"Column": str()} if len(node) == 1:
            return
        case {"Literal": dict(value)} if len(node) == 1:
            yield from value.keys() - _LITERALS
        case {"Alias": [child, str()]} if len(node) == 1:
            yield from _disallowed(child)
        case {"Cast": {"expr": child, **options}} if len(node) == 1:
            yield from _disallowed(child)
            yield from _disallowed_options(options)
        case {"BinaryExpr": {"left": left, "op": str(), "right": right}} if len(node) == 1:
            yield from _disallowed(left)
            yield from _disallowed(right)
        case {"Ternary": {"predicate": condition, "truthy": yes, "falsy": no}} if len(node) == 1:
            for child in (condition, yes, no):
                yield from _disallowed(child)
        case {"Function": {"input": [*children], "function": function, **rest}} if len(node) == 1 and not rest:
            yield from _disallowed_function(function)
            for child in children:
                yield from _disallowed(child)
        case dict():
            yield from node or ("{}",)
        case _:
            yield str(node)


def _disallowed_function(function: Any) -> Iterator[str]:
    name, options = _split(function)
    if name not in _FUNCTIONS:
        yield name
    elif name in _REFUSED_MEMBERS:
        member, options = _split(options)
        if member in _REFUSED_MEMBERS[name]:
            yield member
    yield from _disallowed_options(options)


def _split(function: Any) -> tuple[str, Any]:
    """Name and options of a function: ``"Abs"``, or ``{"Round": {"decimals": 1}}``."""
    if isinstance(function, dict) and len(function) == 1:
        return next(iter(function.items()))
    return str(function), None


def _disallowed_options(options: Any) -> Iterator[str]:
    """Names that are neither fields of options nor types: an expression could be inside."""
    if isinstance(options, dict):
        yield from (name for name in options if not name.islower() and name not in _DTYPES)
    if isinstance(options, dict | list):
        for child in options.values() if isinstance(options, dict) else options:
            yield from _disallowed_options(child)
