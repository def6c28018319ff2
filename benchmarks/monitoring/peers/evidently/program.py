"""Evidently's data drift preset, as its documentation shows it: the test of a column chosen by its type and rows."""

from __future__ import annotations

import warnings
from typing import Any

from common import Score, main, table, timed
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

warnings.filterwarnings("ignore")


def alarms(plan: dict[str, Any]) -> list[Score]:
    reference = _dataset(plan["reference"])
    return [_score(Report([DataDriftPreset()]).run(_dataset(path), reference).dict()) for path in plan["windows"]]


def seconds(plan: dict[str, Any]) -> list[float]:
    """Seconds of a whole report for each window, without building the data frames."""
    reference, durations = _dataset(plan["reference"]), []
    for path in plan["windows"]:
        window = _dataset(path)
        durations.append(timed(lambda window=window: Report([DataDriftPreset()]).run(window, reference).dict()))
    return durations


def _dataset(path: str) -> Dataset:
    frame = table(path)
    numbers = [name for name in frame.columns if name.startswith("n")]
    strings = [name for name in frame.columns if name.startswith("s")]
    return Dataset.from_pandas(frame, DataDefinition(numerical_columns=numbers, categorical_columns=strings))


def _score(report: dict[str, Any]) -> Score:
    ratios = dict(_ratio(metric) for metric in report["metrics"] if metric["metric_name"].startswith("ValueDrift"))
    return ratios, max(ratios.values()) > 1.0


def _ratio(metric: dict[str, Any]) -> tuple[str, float]:
    """A column's name, and a figure above 1 when it drifted: a p-value does below its threshold, a distance above."""
    settings = dict(
        part.split("=", 1) for part in metric["metric_name"][:-1].split("(", 1)[1].split(",") if "=" in part
    )
    value, threshold = float(metric["value"]), float(settings["threshold"])
    by_p = "p_value" in settings["method"]
    return settings["column"], threshold / max(value, 1e-300) if by_p else value / threshold


if __name__ == "__main__":
    main({"alarms": alarms, "seconds": seconds})
