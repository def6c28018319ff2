"""Rows are held to their targets, and a results file keeps what was not measured again."""

import json
from pathlib import Path

import pytest

from benchmarks.results import Target, row, write
from rayloop import __version__

LEAST = Target(of="ratio", sign="≥", limit=3.0)


@pytest.mark.parametrize(
    ("rayloop", "peer", "target", "met"),
    [
        (300.0, 100.0, LEAST, True),
        (299.0, 100.0, LEAST, False),
        (None, 100.0, LEAST, None),
        (300.0, None, LEAST, None),
        (1.0, 1.0, Target(of="ratio", sign="<", limit=1.0), False),
        (999.0, None, Target(of="value", sign="≤", limit=1000.0), True),
        (1001.0, None, Target(of="value", sign="≤", limit=1000.0), False),
        (0.99, None, Target(of="value", sign="=", limit=1.0), False),
        (1.0, 2.0, None, None),
    ],
)
def test_row_with_a_target_computes_met(
    rayloop: float | None, peer: float | None, target: Target | None, met: bool | None
) -> None:
    assert row("work", "unit", rayloop, "peer", peer, target).met is met


def test_row_just_below_its_target_is_not_met() -> None:
    assert row("work", "unit", 299.9999, "peer", 100.0, LEAST).met is False


def test_write_replaces_rows_of_the_same_work_and_keeps_others(tmp_path: Path) -> None:
    write(
        "area",
        [row("a", "s", 1.0, "x", 2.0), row("a", "s", 1.0, "y", 2.0), row("b", "s", 5.0)],
        {"x": "1"},
        "",
        tmp_path,
    )
    page = write("area", [row("a", "s", 3.0, "x", 2.0)], {"y": "2"}, "", tmp_path)
    content = json.loads((tmp_path / "area.json").read_text())
    assert [(one["work"], one["peer"], one["rayloop"]) for one in content["rows"]] == [("a", "x", 3.0), ("b", "", 5.0)]
    assert content["versions"] == {"x": "1", "y": "2", "rayloop": __version__}
    assert {"machine", "versions", "date", "rows"} == set(content)
    assert "## b" in page.read_text()


def test_write_of_a_row_below_its_target_marks_it(tmp_path: Path) -> None:
    page = write("area", [row("a", "s", 100.0, "x", 100.0, LEAST, "why")], {}, "", tmp_path)
    assert "| s | 100 | x | 100 | 1 | ratio ≥ 3 | **no** | why |" in page.read_text()
