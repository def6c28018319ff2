"""`rayloop trace`: an answer, a fallback, and a request without an answer."""

import pytest

from deployments.telemetry.prediction_log import Answer, predictions
from rayloop.cli.trace import describe_answer
from tests.unit.deployments.analysis.test_evidence_collector import answer


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        (answer("a", 0.25), ["answer    0.25 by the champion, v1, in 2.00 ms"]),
        (answer("a", 0.25, 0.75), ["answer    0.75 by the challenger, v2, in 2.00 ms"]),
        (
            answer("a", 0.25, error="ValueError: no", challenger_version="2"),
            ["answer    0.25 by the champion, v1, in 2.00 ms", "fallback  challenger v2 failed: ValueError: no"],
        ),
        (
            answer("a", None, champion_error="ValueError: no"),
            ["answer    none, HTTP 500: v1 failed: ValueError: no"],
        ),
    ],
)
def test_describe_answer_shows_which_variant_answered_and_which_failed(logged: Answer, expected: list[str]) -> None:
    (row,) = predictions([logged], "b").to_pylist()
    lines = describe_answer(row)
    assert lines[1 : 1 + len(expected)] == expected
    assert lines[-1] == "  distance = 0.0"
