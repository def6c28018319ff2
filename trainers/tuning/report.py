"""Self-contained HTML report of a search: the winner, settings against results, and all trials."""

from __future__ import annotations

import math

from cluster.web.page import empty_note, fact_boxes, plot, render_page, section, table
from trainers.tuning import report_plots as plots
from trainers.tuning.trial import FinalistResult, Trial, TuneResult, format_settings


def render_search(project: str, result: TuneResult, made_at: float) -> str:
    """The report as HTML without external resources.

    Args:
        project: Name of the project.
        result: The search.
        made_at: Unix time of the report.
    """
    return render_page(
        f"{project}: search", made_at, [_facts(result), _finalists(result), _parallel(result), _trials(result)]
    )


def _facts(result: TuneResult) -> str:
    search_trials = [trial for trial in result.trials if trial.stage == "search"]
    boxes = [
        (f"best validation {result.metric}", f"{result.best.metric:.4f}"),
        ("trials", str(len(search_trials))),
        ("stopped early", str(sum(trial.status == "stopped" for trial in search_trials))),
        ("failed", str(sum(trial.status == "failed" for trial in search_trials))),
        ("seconds of training", f"{sum(trial.seconds for trial in result.trials):,.0f}"),
    ]
    return fact_boxes(boxes)


def _finalists(result: TuneResult) -> str:
    if not result.finalists:
        text = f"No repeats: trial {result.best.number} wins by a single seed, which may be luck. Set finalist_seeds."
        return section("Finalists", "", empty_note(text))
    caption = (
        "The best settings under new seeds; the best mean wins. A trial's result in the search is excluded from "
        "its mean, because selection biases it upward. ± is the standard deviation over seeds."
    )
    by_number = {trial.number: trial for trial in result.trials}
    rows = [_finalist_row(s, by_number[s.trial]) for s in result.finalists]
    head = ("trial", f"mean {result.metric}", "seeds", "in the search", "settings")
    body = plot(plots.spread(result.finalists, result.metric)) + table(head, rows, wide_last=True)
    return section("Finalists", caption, body)


def _finalist_row(finalist: FinalistResult, trial: Trial) -> tuple[str, ...]:
    spread = "" if math.isnan(finalist.spread) else f" ± {finalist.spread:.4f}"
    values = " ".join(f"{value:.4f}" for value in finalist.values)
    return (str(finalist.trial), f"{finalist.mean:.4f}{spread}", values, f"{trial.metric:.4f}", format_settings(trial))


def _parallel(result: TuneResult) -> str:
    with_result = [trial for trial in result.trials if trial.stage == "search" and trial.has_result]
    caption = (
        "One line per trial, through its settings to its result; darker is better. Where good lines meet on an axis, "
        "the setting matters. The thick line is the winner."
    )
    svg = plots.parallel(with_result, result.best.number, result.metric, result.direction)
    return section("Settings and results", caption, plot(svg))


def _trials(result: TuneResult) -> str:
    head = ("trial", result.metric, "status", "epochs", "seconds", "from", "seed", "settings")
    rows = [
        (
            str(trial.number),
            f"{trial.metric:.4f}" if trial.has_result else "-",
            trial.status,
            str(trial.epochs),
            f"{trial.seconds:.1f}",
            str(trial.parent or "-"),
            str(trial.seed),
            f"{format_settings(trial)} {trial.error}".rstrip(),
        )
        for trial in result.trials
    ]
    return section("Trials", "In the order in which they were proposed.", table(head, rows, wide_last=True))
