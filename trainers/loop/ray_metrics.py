"""Training progress as Ray metrics, for the dashboard and Prometheus."""

from __future__ import annotations

from ray.util.metrics import Gauge

from trainers.loop.train_events import StepProgress

_DESCRIPTIONS = {
    "loss": "Mean training loss of the epoch so far",
    "rows_per_second": "Training rows per second, over all workers",
    "left_seconds": "Seconds until the last epoch ends, without validation",
    "workers": "Workers that train together",
    "lr": "Learning rate",
}


class TrainGauges:
    """Gauges ``rayloop_train_*`` of one model."""

    def __init__(self, model: str) -> None:
        self._tags = {"model": model}
        self._gauges = {
            name: Gauge(f"rayloop_train_{name}", description, tag_keys=("model",))
            for name, description in _DESCRIPTIONS.items()
        }
        self._stages = Gauge(
            "rayloop_train_stage_seconds", "Seconds of the present epoch by stage", tag_keys=("model", "stage")
        )

    def record(self, progress: StepProgress) -> None:
        """Set all gauges."""
        values = progress.as_metrics()
        for name, gauge in self._gauges.items():
            gauge.set(values[name], tags=self._tags)
        for stage, seconds in progress.seconds.items():
            self._stages.set(seconds, tags={**self._tags, "stage": stage})
