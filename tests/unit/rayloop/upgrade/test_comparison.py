"""Evidence for a move: equal answers, differences that stay, errors and latencies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from cluster.door.moves import FIRST, SECOND
from rayloop.upgrade.comparison import Answer, Comparison, compare

BODIES = [{"row": row} for row in range(10)]


def run(content: Callable[[str, int, int], str]) -> tuple[Comparison, Counter[str]]:
    """``content`` has cluster, row, and how often the cluster was asked for the row before."""
    counts: Counter[Any] = Counter()
    ids: set[str] = set()

    def ask(cluster: str, body: dict[str, Any]) -> Answer:
        answer = content(cluster, body["row"], counts[cluster, body["row"]])
        counts[cluster, body["row"]] += 1
        ids.add(body["id"])
        return Answer(answer, not answer.startswith("200"), 10.0 if cluster == FIRST else 20.0)

    comparison = compare(BODIES, ask)
    assert len(ids) == sum(counts.values())
    return comparison, Counter({row: n for (cluster, row), n in counts.items() if cluster == SECOND})


def test_equal_answers_are_asked_for_once() -> None:
    comparison, asked = run(lambda cluster, row, before: f"200 {row}")
    assert comparison.differences == ()
    assert [(side.name, side.errors, side.p50_ms) for side in comparison.sides] == [(FIRST, 0, 10.0), (SECOND, 0, 20.0)]
    assert set(asked.values()) == {1}
    assert list(comparison.describe())[-1] == "10 of 10 answers are equal, bit for bit"


def test_difference_that_is_gone_when_asked_again_is_none() -> None:
    comparison, asked = run(lambda cluster, row, before: f"200 {cluster if row == 3 and not before else row}")
    assert comparison.differences == ()
    assert asked[3] == 2


def test_errors_and_other_outputs_are_differences() -> None:
    def content(cluster: str, row: int, before: int) -> str:
        return {2: f"200 {cluster}", 5: "503 x" if cluster == SECOND else "200 5", 6: "400 x"}.get(row, f"200 {row}")

    comparison, _ = run(content)
    assert comparison.differences == (("200 first", "200 second"), ("200 5", "503 x"))
    assert [side.errors for side in comparison.sides] == [1, 2]
    assert "  second: 200 second" in comparison.describe()
