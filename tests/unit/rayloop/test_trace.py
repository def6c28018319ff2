"""What `rayloop trace` says of an answer, of a fallback, and of a request that nobody could answer."""

import pytest

from deployments.telemetry.prediction_log import Answer, predictions
from rayloop.cli import status
from tests.unit.deployments.analysis.test_evidence_collector import answer


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        (answer("a", 0.25), ["answer    0.25 by the champion, v1, in 2.00 ms"]),
        (answer("a", 0.25, 0.75), ["answer    0.75 by the challenger, v2, in 2.00 ms"]),
        (
            answer("a", 0.25, error="ValueError: no", challenger_version="2"),
            ["answer    0.25 by the champion, v1, in 2.00 ms", "fallback  v2 was asked, and failed: ValueError: no"],
        ),
        (
            answer("a", None, champion_error="ValueError: no"),
            ["answer    none, HTTP 500: v1 failed: ValueError: no"],
        ),
    ],
)
def test_a_trace_tells_who_answered_and_who_failed(logged: Answer, said: list[str]) -> None:
    lines: list[str] = []
    (row,) = predictions([logged], "b").to_pylist()
    status._tell_row(row, lines.append)
    assert lines[1 : 1 + len(said)] == said
    assert lines[-1] == "  distance = 0.0"
