"""NannyML: univariate drift with its default method, CBPE and DLE by chunks, as its documentation shows them."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"

import nannyml as nml
import numpy as np
import pandas as pd
from common import Score, main, table

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def alarms(plan: dict[str, Any]) -> list[Score]:
    reference, windows = table(plan["reference"]), [table(path) for path in plan["windows"]]
    calculator = nml.UnivariateDriftCalculator(column_names=list(reference.columns), chunk_size=len(windows[0]))
    drift = calculator.fit(reference).calculate(pd.concat(windows, ignore_index=True)).filter(period="analysis").to_df()
    values = drift.xs("value", axis=1, level=2).to_numpy()
    limits = drift.xs("upper_threshold", axis=1, level=2).to_numpy().astype(float)
    alerts = drift.xs("alert", axis=1, level=2).to_numpy().astype(bool)
    names = drift.xs("value", axis=1, level=2).columns.get_level_values(0)
    ratios = (values / np.maximum(limits, 1e-12)).tolist()
    return [(dict(zip(names, one, strict=True)), bool(a.any())) for one, a in zip(ratios, alerts, strict=True)]


def classifier(plan: dict[str, Any]) -> dict[str, list[float]]:
    """Estimated metrics of each week."""
    reference, live = pd.read_csv(plan["reference"]), pd.read_csv(plan["live"], parse_dates=["when"])
    reference["when"] = pd.to_datetime(reference["when"])
    estimator = nml.CBPE(
        y_pred_proba="score", y_pred="called", y_true="label", timestamp_column_name="when", chunk_period="W",
        problem_type="classification_binary", metrics=plan["metrics"],
    )  # fmt: skip
    return _weeks(estimator.fit(reference).estimate(live.drop(columns="label")), plan["metrics"])


def regressor(plan: dict[str, Any]) -> dict[str, list[float]]:
    """Estimated losses of each week."""
    reference, live = pd.read_csv(plan["reference"]), pd.read_csv(plan["live"], parse_dates=["when"])
    reference["when"] = pd.to_datetime(reference["when"])
    estimator = nml.DLE(
        feature_column_names=plan["features"], y_pred="prediction", y_true="label", timestamp_column_name="when",
        chunk_period="W", metrics=plan["metrics"],
    )  # fmt: skip
    return _weeks(estimator.fit(reference).estimate(live.drop(columns="label")), plan["metrics"])


def _weeks(estimates: Any, metrics: list[str]) -> dict[str, list[float]]:
    weeks = estimates.filter(period="analysis").to_df()
    starts = [str(start)[:10] for start in weeks[("chunk", "start_date")]]
    return {"weeks": starts} | {metric: weeks[(metric, "value")].astype(float).tolist() for metric in metrics}


if __name__ == "__main__":
    main({"alarms": alarms, "classifier": classifier, "regressor": regressor})
