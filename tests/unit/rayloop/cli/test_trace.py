"""`rayloop trace`: an answer, its reasons, a fallback, and a request without an answer."""

from dataclasses import replace

import pytest

from deployments.telemetry.prediction_log import PredictionBatch, prediction_rows
from features.attributions.explanation import Reason, RowExplanation
from rayloop.cli.trace import describe_answer
from tests.factories.deployments.predictions import copied_batch, prediction_batch

EXPLANATION = RowExplanation(
    output="late",
    score=0.25,
    method="sampled",
    unit="probability",
    base=0.5,
    total=0.25,
    contributions={"distance": -0.25},
    errors={"distance": 0.0},
    reasons=(Reason(feature="distance", text="Near", contribution=-0.25),),
)


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        (prediction_batch("a", 0.25), ["answer    0.25 by the champion, v1, in 2.00 ms"]),
        (prediction_batch("a", 0.25, 0.75), ["answer    0.75 by the challenger, v2, in 2.00 ms"]),
        (
            prediction_batch("a", 0.25, error="ValueError: no", challenger_version="2"),
            ["answer    0.25 by the champion, v1, in 2.00 ms", "fallback  challenger v2 failed: ValueError: no"],
        ),
        (
            copied_batch("a", "scored", 0.75, champion=0.25),
            ["answer    0.25 by the champion, v1, in 2.00 ms", "copy      scored by challenger v2: 0.75"],
        ),
        (
            copied_batch("a", "unanswered", champion=0.25),
            [
                "answer    0.25 by the champion, v1, in 2.00 ms",
                "copy      unanswered by challenger v2: no answer within 1 s",
            ],
        ),
        (
            prediction_batch("a", None, champion_error="ValueError: no"),
            ["answer    none, HTTP 500: v1 failed: ValueError: no"],
        ),
        (
            replace(prediction_batch("a", 0.25), explanations=[EXPLANATION.model_dump_json()]),
            ["answer    0.25 by the champion, v1, in 2.00 ms", "reason    Near (-0.25 probability)"],
        ),
    ],
)
def test_describe_answer_shows_which_variant_answered_and_which_failed(
    logged: PredictionBatch, expected: list[str]
) -> None:
    (row,) = prediction_rows([logged], "b").to_pylist()
    lines = describe_answer(row)
    assert lines[1 : 1 + len(expected)] == expected
    assert lines[-1] == "  distance = 0.0"
