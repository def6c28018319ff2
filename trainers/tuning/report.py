"""A search as one self-contained HTML page: who won and by how much, how settings went with results, every trial."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cluster.web.page import empty_note, fact_boxes, plot, render_page, section, table
from trainers.tuning import report_plots as plots
from trainers.tuning.trial import Standing, Trial, TuneResult


def render(project: str, found: TuneResult, made_at: float) -> str:
    """The page. It loads nothing from anywhere."""
    return render_page(
        f"{project}: search", made_at, [_facts(found), _finalists(found), _parallel(found), _trials(found)]
    )


def _facts(found: TuneResult) -> str:
    searched = [trial for trial in found.trials if trial.stage == "search"]
    stopped = sum(trial.status == "stopped" for trial in searched)
    boxes = [
        (f"best validation {found.metric}", f"{found.best.metric:.4f}"),
        ("trials", str(len(searched))),
        ("stopped early", str(stopped)),
        ("failed", str(sum(trial.status == "failed" for trial in searched))),
        ("seconds of training", f"{sum(trial.seconds for trial in found.trials):,.0f}"),
    ]
    return fact_boxes(boxes)


def _finalists(found: TuneResult) -> str:
    if not found.standings:
        why = f"None was trained again: trial {found.best.number} wins by one seed, which may be luck. Set finalist_seeds."
        return section("Finalists", "", empty_note(why))
    caption = (
        "The best settings under seeds that the search has not seen; the best mean wins. What a trial had in the search is not "
        "in its mean: it was picked for being high. ± is the standard deviation over seeds."
    )
    by_number = {trial.number: trial for trial in found.trials}
    rows = [_standing(s, by_number[s.trial]) for s in found.standings]
    head = ("trial", f"mean {found.metric}", "seeds", "in the search", "settings")
    body = plot(plots.spread(found.standings, found.metric)) + table(head, rows, wide_last=True)
    return section("Finalists", caption, body)


def _standing(found: Standing, trial: Trial) -> tuple[str, ...]:
    spread = "" if math.isnan(found.spread) else f" ± {found.spread:.4f}"
    values = " ".join(f"{value:.4f}" for value in found.values)
    return (str(found.trial), f"{found.mean:.4f}{spread}", values, f"{trial.metric:.4f}", settings(trial))


def _parallel(found: TuneResult) -> str:
    able = [trial for trial in found.trials if trial.stage == "search" and trial.able]
    caption = (
        "A line for each trial, from setting to setting to its result; the darker, the better. Where good lines meet on an axis, "
        "the setting matters. The thick one won."
    )
    drawn = plots.parallel(able, found.best.number, found.metric, found.direction)
    return section("Settings and results", caption, plot(drawn))


def _trials(found: TuneResult) -> str:
    head = ("trial", found.metric, "status", "epochs", "seconds", "from", "seed", "settings")
    return section(
        "Trials", "In the order in which they were proposed.", table(head, _rows(found.trials), wide_last=True)
    )


def _rows(trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    return [
        (
            str(trial.number),
            f"{trial.metric:.4f}" if trial.able else "-",
            trial.status,
            str(trial.epochs),
            f"{trial.seconds:.1f}",
            str(trial.parent or "-"),
            str(trial.seed),
            f"{settings(trial)} {trial.error}".rstrip(),
        )
        for trial in trials
    ]


def settings(trial: Trial) -> str:
    """As text."""
    return ", ".join(f"{name} {shown(value)}" for name, value in trial.parameters.items())


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
