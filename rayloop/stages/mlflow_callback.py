"""Training curves in MLflow, while the training runs."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.registry import Run
from trainers.loop.train_events import EpochResult, StepProgress

EVERY = 5
"""One of so many step events is logged; there is about one a second."""


class CurveLogger:
    """Logs a fit: ``train_loss``, ``train_rows_per_s``, ``validation_epoch_*`` by epoch, ``step_*`` by step."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._step_events = 0
        self._epochs: set[int] = set()

    def __call__(self, event: EpochResult | StepProgress) -> None:
        if isinstance(event, EpochResult):
            self._epoch(event)
            return
        self._step_events += 1
        if self._step_events % EVERY == 1:
            step = (event.epoch - 1) * event.steps + event.step
            self._run.log_metrics({f"step_{name}": value for name, value in event.as_metrics().items()}, step=step)

    def complete(self, epochs: Sequence[EpochResult]) -> None:
        """Log the epochs that ended before a resumed training started."""
        for epoch in epochs:
            if epoch.number not in self._epochs:
                self._epoch(epoch)

    def _epoch(self, epoch: EpochResult) -> None:
        self._epochs.add(epoch.number)
        validation = {f"validation_epoch_{name}": value for name, value in epoch.metrics.items()}
        seconds = {f"train_seconds_{stage}": spent for stage, spent in epoch.seconds.items()}
        speed = {"train_loss": epoch.loss, "train_rows_per_s": epoch.rows_per_second}
        self._run.log_metrics({**speed, **validation, **seconds}, step=epoch.number)
