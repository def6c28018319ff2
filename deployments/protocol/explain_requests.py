"""Explanations over HTTP: what a request asks for, and the answer of /explain. Pure.

A prediction is explained where its body has ``{"parameters": {"explain": true}}`` (Open Inference Protocol) or
``{"params": {"explain": true}}`` (MLflow); with ``"store"`` in place of true, the prediction log keeps the explanations
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic_core import to_json

from cluster.errors import RequestError
from cluster.names import Variant
from features.attributions.explanation import RowExplanation

ExplainOption = Literal["answer", "store"] | None
"""Explanations in the answer; there and in the prediction log; or none."""

STORE = "store"


def explain_option(parameters: object, field: str) -> ExplainOption:
    """What the parameters of a request ask for.

    Args:
        parameters: The parameters; anything but an object asks for nothing.
        field: Their place in the request.

    Raises:
        RequestError: 400 for another value of ``explain`` than true, false and "store".
    """
    value = parameters.get("explain") if isinstance(parameters, dict) else None
    if value is None or value is False:
        return None
    if value is True:
        return "answer"
    if value == STORE:
        return "store"
    raise RequestError("request.unknown_explain_option", field=f"{field}.explain")


def is_tensor_request(body: Mapping[str, Any]) -> bool:
    """Whether a body is of the Open Inference Protocol; else it has one of MLflow's shapes."""
    inputs = body.get("inputs")
    return isinstance(inputs, list) and all(isinstance(tensor, dict) for tensor in inputs)


def encode_explain_response(
    id: str, model: str, version: str, variant: Variant, explanations: Sequence[RowExplanation]
) -> bytes:
    """Encode the answer of /explain.

    Args:
        id: The request's id.
        model: Name of the model.
        version: Version that answers, and explains.
        variant: Its variant.
        explanations: Of each row.
    """
    parameters = {"variant": variant}
    head = {"model_name": model, "model_version": version, "id": id, "parameters": parameters}
    return to_json({**head, "explanations": explanations})
