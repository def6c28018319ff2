"""Kinds of sabotage: what is done to the rows and labels of a batch, and which checks name it rightly. Seeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.evidence.simulated_log import PASS_US, TASKS, Batch, Sabotage

Rows = Callable[[Batch, np.random.Generator], np.ndarray]
"""Chooses rows of a batch."""


class Kind(NamedTuple):
    """A kind of sabotage."""

    checks: tuple[str, ...]
    """Checks that name it rightly."""
    change: Sabotage
    tasks: tuple[str, ...] = tuple(TASKS)
    challenger: str = "worse"
    """Quality of the challenger; a better one is blamed most easily where labels are wrong."""


def _everything(batch: Batch, chance: np.random.Generator) -> np.ndarray:
    return np.ones(len(batch.ids), bool)


def _of_challenger(batch: Batch, chance: np.random.Generator) -> np.ndarray:
    return batch.challenger.copy()


def _of_champion(batch: Batch, chance: np.random.Generator) -> np.ndarray:
    return ~batch.challenger


def _where_it_erred(batch: Batch, chance: np.random.Generator) -> np.ndarray:
    return batch.challenger & batch.erred


def _where_it_was_right(batch: Batch, chance: np.random.Generator) -> np.ndarray:
    return batch.challenger & ~batch.erred


def _champion_erred(batch: Batch, chance: np.random.Generator) -> np.ndarray:
    return ~batch.challenger & batch.erred


def _high_scores(batch: Batch, chance: np.random.Generator) -> np.ndarray:
    return batch.challenger & (batch.champion_score > np.quantile(batch.champion_score, 0.6))


def _high_labels(batch: Batch, chance: np.random.Generator) -> np.ndarray:
    return batch.challenger & (batch.labels > np.nanmean(batch.labels))


def _some(rate: float, rows: Rows = _everything) -> Rows:
    def choose(batch: Batch, chance: np.random.Generator) -> np.ndarray:
        return rows(batch, chance) & (chance.random(len(batch.ids)) < rate)

    return choose


def _labels(change: Callable[[np.ndarray], np.ndarray], rows: Rows = _everything) -> Sabotage:
    """Change the labels of some rows; rows without a label get none."""

    def sabotage(batch: Batch, chance: np.random.Generator) -> None:
        mask = rows(batch, chance) & np.isfinite(batch.labels)
        batch.labels[mask] = change(batch.labels[mask])

    return sabotage


def _missing(rows: Rows) -> Sabotage:
    def sabotage(batch: Batch, chance: np.random.Generator) -> None:
        batch.labels[rows(batch, chance)] = np.nan

    return sabotage


def _late(rows: Rows, passes: float) -> Sabotage:
    def sabotage(batch: Batch, chance: np.random.Generator) -> None:
        batch.delays_us[rows(batch, chance)] += passes * PASS_US

    return sabotage


def _lost(rows: Rows, reported: bool = False) -> Sabotage:
    def sabotage(batch: Batch, chance: np.random.Generator) -> None:
        batch.logged[rows(batch, chance)] = False
        batch.reported = reported

    return sabotage


def _inverted(rows: Rows) -> Sabotage:
    def sabotage(batch: Batch, chance: np.random.Generator) -> None:
        mask, known = rows(batch, chance), batch.labels[np.isfinite(batch.labels)]
        center = 1.0 if set(np.unique(known)) <= {0.0, 1.0} else 2.0 * float(known.mean())
        batch.labels[mask] = center - batch.labels[mask]

    return sabotage


def _shuffled(rows: Rows) -> Sabotage:
    def sabotage(batch: Batch, chance: np.random.Generator) -> None:
        mask = rows(batch, chance)
        batch.labels[mask] = chance.permutation(batch.labels[mask])

    return sabotage


def _from_scores(answers: bool) -> Sabotage:
    """Labels are predictions: somebody joined the answers in place of what happened."""

    def sabotage(batch: Batch, chance: np.random.Generator) -> None:
        scores = batch.answer if answers else batch.champion_score
        known = np.isfinite(batch.labels)
        binary = set(np.unique(batch.labels[known])) <= {0.0, 1.0}
        batch.labels[known] = (scores[known] > 0.5).astype(float) if binary else scores[known]

    return sabotage


def _next_label(batch: Batch, chance: np.random.Generator) -> None:
    batch.labels[:] = np.roll(batch.labels, 1)


def _swap_columns(batch: Batch, chance: np.random.Generator) -> None:
    scored = np.isfinite(batch.challenger_score)
    ours, theirs = batch.champion_score[scored].copy(), batch.challenger_score[scored].copy()
    batch.champion_score[scored], batch.challenger_score[scored] = theirs, ours


def _swap_columns_and_answer(batch: Batch, chance: np.random.Generator) -> None:
    _swap_columns(batch, chance)
    scored = np.isfinite(batch.challenger_score)
    batch.answer[scored] = batch.challenger_score[scored]


def _copy_score(batch: Batch, chance: np.random.Generator) -> None:
    scored = np.isfinite(batch.challenger_score)
    batch.challenger_score[scored] = batch.champion_score[scored]


def _next_answer(batch: Batch, chance: np.random.Generator) -> None:
    batch.answer[:] = np.roll(batch.answer, 1)


def _shuffle_champion_scores(batch: Batch, chance: np.random.Generator) -> None:
    batch.champion_score[batch.challenger] = chance.permutation(batch.champion_score[batch.challenger])


def _stale_champion_score(batch: Batch, chance: np.random.Generator) -> None:
    batch.champion_score[batch.challenger] = batch.champion_score[0]


def _swap_arms(batch: Batch, chance: np.random.Generator) -> None:
    batch.challenger[:] = ~batch.challenger


def _next_key(batch: Batch, chance: np.random.Generator) -> None:
    batch.keys[:] = np.roll(batch.keys, 1)


def _pin(batch: Batch, chance: np.random.Generator) -> None:
    """A cache answers a tenth of the challenger's requests with the champion."""
    pinned = batch.challenger & (chance.random(len(batch.ids)) < 0.1)
    batch.challenger[pinned], batch.challenger_score[pinned] = False, np.nan
    batch.answer[pinned] = batch.champion_score[pinned]


def _stray(batch: Batch, chance: np.random.Generator) -> None:
    """Some of the champion's requests are logged as the challenger's."""
    stray = ~batch.challenger & (chance.random(len(batch.ids)) < 0.1)
    batch.challenger[stray] = True
    batch.challenger_score[stray] = batch.champion_score[stray]


def _repeat_rows(batch: Batch, chance: np.random.Generator) -> None:
    batch.repeated[chance.random(len(batch.ids)) < 0.2] = True


def _contradict(batch: Batch, chance: np.random.Generator) -> None:
    """A second, other label for a third of the rows, at the end of the batch's time."""
    chosen = np.isfinite(batch.labels) & (chance.random(len(batch.ids)) < 0.3)
    batch.extra = batch.ids[chosen], batch.labels[chosen] + 1.0 - 2.0 * (batch.labels[chosen] == 1.0)


def _correct_wrongly(batch: Batch, chance: np.random.Generator) -> None:
    """A later job sends each row the label of its neighbor."""
    known = np.isfinite(batch.labels)
    batch.extra = batch.ids[known], np.roll(batch.labels[known], 1)


REGRESSION, CLASSIFICATION = ("regression",), ("classification",)
KINDS: dict[str, Kind] = {
    "labels inverted": Kind(("loss", "labels"), _inverted(_everything), challenger="better"),
    "half of the labels inverted": Kind(("loss",), _inverted(_some(0.5)), challenger="better"),
    "labels negated": Kind(("loss",), _labels(np.negative), REGRESSION, "better"),
    "labels shuffled": Kind(("loss",), _shuffled(_everything), challenger="better"),
    "labels of the row before": Kind(("loss",), _next_label, challenger="equal"),
    "labels all 0": Kind(("labels", "loss"), _labels(np.zeros_like)),
    "labels all 1": Kind(("labels", "loss"), _labels(np.ones_like)),
    "three quarters of the labels 0": Kind(("labels", "loss"), _labels(np.zeros_like, _some(0.75))),
    "labels times 60": Kind(("loss",), _labels(lambda y: 60.0 * y), REGRESSION),
    "labels times 2": Kind(("loss",), _labels(lambda y: 2.0 * y), REGRESSION, "equal"),
    "labels in thousands": Kind(("loss",), _labels(lambda y: y / 1000.0), REGRESSION),
    "labels in Fahrenheit": Kind(("loss",), _labels(lambda y: 1.8 * y + 32.0), REGRESSION),
    "logarithms of labels": Kind(("loss",), _labels(lambda y: np.log(np.abs(y))), REGRESSION),
    "labels are the answers": Kind(("loss", "labels"), _from_scores(answers=True)),
    "labels are the champion's predictions": Kind(("loss", "labels"), _from_scores(answers=False), challenger="better"),
    "labels inverted in one variant": Kind(("loss", "labels"), _inverted(_of_challenger), challenger="better"),
    "labels shuffled in one variant": Kind(("loss",), _shuffled(_of_challenger), challenger="better"),
    "labels all 0 in one variant": Kind(("labels", "loss"), _labels(np.zeros_like, _of_challenger)),
    "labels times 60 in one variant": Kind(("labels", "loss"), _labels(lambda y: 60.0 * y, _of_challenger), REGRESSION),
    "labels one higher in one variant": Kind(("labels", "loss"), _labels(lambda y: y + 1.0, _of_challenger),
                                             REGRESSION),
    "a fifth of the challenger's labels missing": Kind(("coverage",), _missing(_some(0.2, _of_challenger)),
                                                       challenger="equal"),
    "a fifth of the champion's labels missing": Kind(("coverage",), _missing(_some(0.2, _of_champion)),
                                                     challenger="equal"),
    "labels missing where the challenger erred": Kind(("coverage", "loss", "labels"), _missing(_where_it_erred)),
    "labels missing where the challenger was right": Kind(("coverage", "loss", "labels"),
                                                          _missing(_some(0.5, _where_it_was_right)),
                                                          challenger="better"),
    "labels missing where the champion erred": Kind(("coverage", "loss", "labels"), _missing(_champion_erred),
                                                    challenger="better"),
    "high labels missing in one variant": Kind(("coverage", "labels", "loss"), _missing(_high_labels)),
    "labels missing at high scores in one variant": Kind(("coverage",), _missing(_high_scores), challenger="equal"),
    "labels stop coming": Kind(("coverage",), _missing(_everything), challenger="equal"),
    "labels late in both variants": Kind(("coverage",), _late(_everything, 12.0), challenger="equal"),
    "labels of one variant late": Kind(("delay", "coverage"), _late(_of_challenger, 2.0), challenger="equal"),
    "labels late where the challenger erred": Kind(("delay", "coverage", "loss", "labels"),
                                                   _late(_where_it_erred, 5.0)),
    "score columns swapped": Kind(("scores",), _swap_columns),
    "score columns and answers swapped": Kind(("scores", "loss"), _swap_columns_and_answer),
    "the champion's score in both columns": Kind(("scores",), _copy_score),
    "answers of the row before": Kind(("scores",), _next_answer),
    "the champion's scores shuffled in one variant": Kind(("scores", "loss"), _shuffle_champion_scores),
    "the champion's scores stale in one variant": Kind(("scores", "loss"), _stale_champion_score),
    "variants swapped": Kind(("variant",), _swap_arms),
    "keys of the row before": Kind(("variant",), _next_key),
    "a cache pins keys to the champion": Kind(("variant", "split"), _pin, challenger="equal"),
    "requests of the champion counted as the challenger's": Kind(("variant", "split", "scores"), _stray),
    "rows of the challenger lost": Kind(("split", "requests"), _lost(_some(0.4, _of_challenger)), challenger="equal"),
    "rows of the champion lost": Kind(("split", "requests"), _lost(_some(0.4, _of_champion)), challenger="equal"),
    "rows of the challenger dropped by a full buffer": Kind(("split", "requests"),
                                                            _lost(_some(0.3, _of_challenger), reported=True)),
    "rows lost where the challenger erred": Kind(("split", "requests", "coverage", "loss", "labels", "scores"),
                                                 _lost(_where_it_erred)),
    "rows logged twice": Kind(("duplicates",), _repeat_rows, challenger="equal"),
    "labels contradicted": Kind(("duplicates", "labels", "loss"), _contradict, challenger="equal"),
    "labels corrected with those of other rows": Kind(("duplicates", "loss"), _correct_wrongly, challenger="better"),
}  # fmt: skip
