"""The race of ``ModelSpec(build="auto")``: candidates are trained by the loops of their kinds, one after the other.

It knows nothing of Ray. Every candidate is judged on the validation rows, which follow the project's split: they are
later than the training rows, or of other groups. The end of a training is what an epoch's end is to a module.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from cluster.errors import DataError
from cluster.row_losses import row_loss
from trainers import metrics
from trainers.config import TREES, ModelSpec
from trainers.data.batches import EncodedRows, MemoryLoader, MemoryValidationLoader
from trainers.loop import library_loop, train_loop
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_events import AttemptResult, EpochResult, StepProgress, TrainResult, Weights
from trainers.loop.train_spec import TrainSpec
from trainers.loop.validation import score_rows
from trainers.selection import ensemble
from trainers.selection.auto_parameters import FAMILIES, auto_parameters
from trainers.selection.candidates import propose
from trainers.selection.ensemble_model import build_fitted
from trainers.selection.race import Heat, Race, rung_rows
from trainers.selection.selection import Attempt, Ensemble, Selection
from trainers.trees.libraries import library_of

CANDIDATES = 60
"""Most candidates; more would rather fit the validation rows."""
RACE_SHARE = 0.9
"""Share of the minutes for the race; in the rest, the ensemble is chosen and its interval measured."""
CORRECTION_ROWS = 5_000
"""Validation rows on which the selection is repeated, at most."""


class _Trained(NamedTuple):
    spec: ModelSpec
    state: Weights
    scores: np.ndarray
    loss: float


def train(
    spec: TrainSpec,
    rows: EncodedRows,
    held_out: EncodedRows,
    on_epoch: Callable[[EpochResult], None] = lambda epoch: None,
    on_progress: Callable[[StepProgress], None] = lambda progress: None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainResult:
    """Race candidates for ``spec.model.minutes``, and keep the best ensemble of them.

    Args:
        spec: What to train.
        rows: Training rows.
        held_out: Validation rows.
        on_epoch: Receives the result of each training, and of the ensemble.
        on_progress: Receives progress within a training about once a second.
        clock: Seconds that only grow.

    Returns:
        The members of the ensemble, with the record of the race.

    Raises:
        ProjectError: A library that the parameters name is not installed.
        DataError: No candidate could be trained.
    """
    return _SelectionLoop(spec, rows, held_out, on_epoch, on_progress, clock).run()


class _SelectionLoop:
    def __init__(
        self,
        spec: TrainSpec,
        rows: EncodedRows,
        held_out: EncodedRows,
        on_epoch: Callable[[EpochResult], None],
        on_progress: Callable[[StepProgress], None],
        clock: Callable[[], float],
    ) -> None:
        self._spec, self._rows, self._held_out = spec, rows, held_out
        self._on_epoch, self._on_progress, self._clock = on_epoch, on_progress, clock
        self._start = clock()
        self._budget = RACE_SHARE * 60 * spec.model.minutes
        self._parameters = auto_parameters(spec.model)
        families = self._parameters.families or tuple(family for family in FAMILIES if _is_installed(family))
        # A library that the parameters name and that is missing is refused before anything is trained.
        for family in families:
            if family in TREES:
                library_of(ModelSpec(build=family))
        self._candidates = propose(families, CANDIDATES, spec.config.seed)
        self._race = Race([each.family for each in self._candidates], rung_rows(len(rows)), self._budget)
        self._order = np.random.default_rng(spec.config.seed).permutation(len(rows))
        self._losses = partial(_row_losses, spec, held_out.labels)
        self._metric = metrics.primary_metric(spec.task)
        self._trained: dict[int, _Trained] = {}
        self._attempts: list[Attempt] = []
        self._epochs: list[EpochResult] = []

    @property
    def _elapsed(self) -> float:
        return self._clock() - self._start

    def run(self) -> TrainResult:
        while heat := self._race.next(self._elapsed):
            self._attempt(heat)
        if not self._trained:
            raise DataError("data.no_candidate_trained", reason=self._attempts[-1].error)
        selection = self._select()
        state = selection.to_state({number: each.state for number, each in self._trained.items()})
        served = selection.served
        self._report(selection.describe(), served.loss, served.metrics, 0.0, len(self._rows), is_last=True)
        return TrainResult(state, tuple(self._epochs))

    def _attempt(self, heat: Heat) -> None:
        """Train one candidate in one rung. One that fails is recorded, and the race goes on."""
        started, error, trained, outcome = self._elapsed, "", None, None
        try:
            trained, outcome = self._train(heat)
        # A candidate is a draw: libraries refuse some in their own ways.
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        seconds, loss = self._elapsed - started, trained.loss if trained else math.inf
        self._race.finish(loss, seconds)
        candidate = self._candidates[heat.candidate]
        attempt = Attempt(
            candidate=heat.candidate,
            family=candidate.family,
            settings=candidate.settings,
            rung=heat.rung,
            rows=heat.rows,
            seconds=seconds,
            loss=loss if trained else None,
            error=error,
        )
        self._attempts.append(attempt)
        if trained is None or outcome is None:
            return
        best = self._trained.get(heat.candidate)
        if best is None or trained.loss <= best.loss:
            self._trained[heat.candidate] = trained
        self._report(attempt.name, outcome.best.loss, outcome.best.metrics, seconds, heat.rows)

    def _train(self, heat: Heat) -> tuple[_Trained, TrainResult]:
        model, config = self._candidates[heat.candidate].configure(self._spec.config, heat.rows)
        spec = TrainSpec(model, config, self._spec.task, self._spec.inputs)
        chosen = self._order[: heat.rows]
        rows = EncodedRows(*(part[chosen] for part in self._rows.arrays))
        outcome = self._fit(spec, rows, lambda: self._elapsed >= heat.until)
        fitted = build_fitted(model, spec.task, spec.inputs, outcome.state)
        scores = score_rows(fitted, self._held_out)
        loss = float(self._losses(scores).mean())
        if not np.isfinite(loss):
            raise DataError("data.score_not_a_number", rows=int(np.isnan(scores).sum()), total=len(scores))
        return _Trained(model, outcome.state, scores, loss), outcome

    def _fit(self, spec: TrainSpec, rows: EncodedRows, out_of_time: Callable[[], bool]) -> TrainResult:
        if not spec.model.is_module:
            return library_loop.train(
                spec, rows, self._held_out, on_progress=self._pass_progress, out_of_time=out_of_time
            )
        return train_loop.train(
            spec,
            MemoryLoader(rows, spec.config.batch_size, spec.config.seed),
            MemoryValidationLoader(self._held_out),
            ProcessGroup(),
            lambda epoch: None,
            self._pass_progress,
            out_of_time=out_of_time,
        )

    def _pass_progress(self, progress: StepProgress) -> None:
        self._on_progress(progress.model_copy(update={"left_seconds": max(0.0, self._budget - self._elapsed)}))

    def _select(self) -> Selection:
        """Choose the ensembles of each size, and measure what they are worth on other rows."""
        numbers = sorted(self._trained)
        scores = np.stack([self._trained[number].scores for number in numbers])
        members = min(self._parameters.members, len(numbers))
        weights = ensemble.select(scores, self._losses, members)
        thin = slice(None, None, -(-scores.shape[1] // CORRECTION_ROWS))
        losses = partial(_row_losses, self._spec, self._held_out.labels[thin])
        corrected = ensemble.corrected_losses(scores[:, thin], losses, members, self._spec.config.seed)
        ensembles = list[Ensemble]()
        for size in reversed(range(members)):
            shares = {numbers[i]: float(weights[size, i]) for i in np.flatnonzero(weights[size])}
            if ensembles and ensembles[-1].weights.keys() == shares.keys():
                continue
            mean = ensemble.combine(scores, weights[size])
            ensembles.append(
                Ensemble(
                    weights=shares,
                    loss=float(self._losses(mean).mean()),
                    corrected=corrected[size],
                    metrics=metrics.evaluate(self._spec.task, mean, self._held_out.labels),
                )
            )
        return Selection(
            attempts=tuple(self._attempts),
            members={n: self._trained[n].spec.parameters for each in ensembles for n in each.weights},
            ensembles=tuple(ensembles),
            loss_name="squared error" if self._spec.task.kind == "regression" else "log loss",
            minutes=self._spec.model.minutes,
            seconds=self._elapsed,
            validation_rows=len(self._held_out),
        )

    def _report(
        self, name: str, loss: float, values: dict[str, float], seconds: float, rows: int, is_last: bool = False
    ) -> None:
        value = values[self._metric.name]
        earlier = self._epochs[-1].best_so_far if self._epochs else self._metric.worst
        is_best = is_last or self._metric.is_better(value, earlier)
        number = len(self._epochs) + 1
        epoch = AttemptResult(
            number=number,
            of=number,
            loss=loss,
            metrics=values,
            lr=0.0,
            rows_per_second=rows / seconds if seconds else 0.0,
            train_seconds=seconds,
            validation_seconds=0.0,
            best=is_best,
            best_so_far=value if is_best else earlier,
            name=name,
            rows=rows,
            elapsed=self._elapsed,
            budget=60 * self._spec.model.minutes,
        )
        self._epochs.append(epoch)
        self._on_epoch(epoch)


def _row_losses(spec: TrainSpec, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return row_loss(spec.task, scores, labels)


def _is_installed(family: str) -> bool:
    return family not in TREES or importlib.util.find_spec(family) is not None
