"""The public API: parameters of each name, their types, defaults and limits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import rayloop
from tests.factories.golden.files import golden


def _parameters(public: Callable[..., Any]) -> dict[str, str]:
    """Each parameter by name: its type as it is written, its default, and the limits of a model's field."""
    fields = public.model_fields if isinstance(public, type) and issubclass(public, BaseModel) else {}
    parameters = inspect.signature(public).parameters.values()
    return {each.name: _describe(each, _type_as_written(public, each), fields.get(each.name)) for each in parameters}


def _describe(parameter: inspect.Parameter, written: str, field: FieldInfo | None) -> str:
    default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
    limits = "".join(f", {limit!r}" for limit in field.metadata) if field is not None else ""
    return written + default + limits


def _default(value: object) -> str:
    return repr(value) if "<" not in repr(value) else "computed"


def _type_as_written(public: Callable[..., Any], parameter: inspect.Parameter) -> str:
    for owner in getattr(public, "__mro__", ()):
        if parameter.name in vars(owner).get("__annotations__", {}):
            return str(owner.__annotations__[parameter.name])
    return str(parameter.annotation)


def test_parameters_and_defaults_are_unchanged() -> None:
    golden("public_api", {name: _parameters(getattr(rayloop, name)) for name in rayloop.__all__})
