"""whylogs: profiles, and the drift scores between two of them, both as its documentation shows them."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import whylogs as why
from common import Score, main, table, timed
from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def alarms(plan: dict[str, Any]) -> list[Score]:
    reference = why.log(table(plan["reference"])).view()
    return [_score(why.log(table(path)).view(), reference) for path in plan["windows"]]


def profile(plan: dict[str, Any]) -> list[float]:
    """Rows per second, once for each repeat."""
    frame = table(plan["frame"])
    return [len(frame) / timed(lambda: why.log(frame).view()) for _ in range(plan["repeats"])]


def _score(live: Any, reference: Any) -> Score:
    drift = calculate_drift_scores(live, reference, with_thresholds=True)
    scores = {name: one for name, one in drift.items() if one}
    ratios = {name: _ratio(one) for name, one in scores.items()}
    return ratios, any(one["drift_category"] == "DRIFT" for one in scores.values())


def _ratio(one: dict[str, Any]) -> float:
    """Above 1 when drifted: a p-value does below its threshold, a distance above."""
    if one["pvalue"] is not None:
        return float(one["thresholds"]["DRIFT"][1] / max(one["pvalue"], 1e-300))
    return float(one["statistic"] / one["thresholds"]["DRIFT"][0])


if __name__ == "__main__":
    main({"alarms": alarms, "profile": profile})
