"""The page of a search is complete and self-contained."""

from __future__ import annotations

import math
import re

import pytest

from trainers.config import ModelSpec, TrainConfig
from trainers.tuning.report import render_search
from trainers.tuning.report_plots import PlotAxis, parallel
from trainers.tuning.trial import FinalistResult, Trial, TuneResult


def _trials() -> list[Trial]:
    lrs, hidden = (1e-4, 1e-3, 1e-2, 1e-1), ((8,), (16, 8), (8,), (16, 8))
    return [
        Trial(
            number=i,
            parameters={"lr": lr, "hidden": sizes, "norm": "ba<tch"},
            metric=0.6 + i / 20,
            epochs=2,
            status="finished" if i % 2 else "stopped",
        )
        for i, (lr, sizes) in enumerate(zip(lrs, hidden, strict=True), start=1)
    ]


def _result(standings: tuple[FinalistResult, ...] = ()) -> TuneResult:
    failed = Trial(number=5, parameters={"lr": 1.0, "hidden": (8,), "norm": "x"}, status="failed", error="no <room>")
    trials = (*_trials(), failed)
    return TuneResult(trials, trials[3], ModelSpec(), TrainConfig(), "auc", 12.0, standings)


def test_report_has_a_row_per_trial_and_a_line_per_result() -> None:
    html = render_search("flights", _result(), 0.0)
    assert [f'id="trial-{i}"' in html for i in range(1, 6)] == [True] * 4 + [False]
    assert "no &lt;room&gt;" in html
    assert "ba&lt;tch" in html
    assert "<room>" not in html
    assert "finalist_seeds" in html
    assert not re.search(r'(src|href)="(?!#)', html)


def test_report_shows_finalists_with_mean_spread_and_seeds() -> None:
    standings = (
        FinalistResult(trial=4, parameters={}, values=(0.7, 0.72)),
        FinalistResult(trial=3, parameters={}, values=(0.69, 0.70)),
    )
    html = render_search("flights", _result(standings), 0.0)
    assert "0.7100 ± 0.0141" in html
    assert "0.6900 0.7000" in html
    assert "one seed" not in html


def test_parallel_draws_the_winner_last_and_thick() -> None:
    for direction in ("max", "min"):
        svg = parallel(_trials(), 2, "auc", direction)
        widths = re.findall(r'id="trial-(\d)".*?stroke-width: ([\d.]+)', svg, flags=re.DOTALL)
        assert {number for number, width in widths if float(width) > 2} == {"2"}


@pytest.mark.parametrize(
    ("values", "at"),
    [
        ((1e-4, 1e-2, 1.0), (0.0, 0.5, 1.0)),
        ((1.0, 2.0, 3.0), (0.0, 0.5, 1.0)),
        ((-1, 0, 99), (0.0, 0.01, 1.0)),
        ((4, 4, 4), (0.5, 0.5, 0.5)),
        (("b", "a", "b"), (0.75, 0.25, 0.75)),
        ((True, False, True), (0.75, 0.25, 0.75)),
    ],
)
def test_axis_over_a_decade_is_logarithmic(values: tuple, at: tuple) -> None:
    axis = PlotAxis("x", values)
    assert axis.at.tolist() == pytest.approx(list(at))
    assert all(0 <= place <= 1 for place, _ in axis.ticks)


def test_axis_writes_integers_without_decimals() -> None:
    assert [text for _, text in PlotAxis("x", (1024, 4096, 0.5)).ticks] == ["0.5", "45.3", "4096"]


def test_parallel_draws_a_single_trial() -> None:
    assert "trial-1" in parallel(_trials()[:1], 1, "auc", "max")
    assert math.isnan(Trial(number=1, parameters={}).metric)
