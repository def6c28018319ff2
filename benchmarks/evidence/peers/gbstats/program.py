"""gbstats as a program: the look at which its sequential test first shows that the second arm costs more."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import RegressionAdjustedStatistic, SampleMeanStatistic


def first_look(looks: list[list[list[float]]], covariate: bool) -> int | None:
    """Index of the first look that shows harm.

    Each look has the sums of both arms: rows, losses, their squares, covariates, their squares, and products.
    """
    for i, arms in enumerate(looks):
        statistics = [_statistic(arm, covariate) for arm in arms]
        result = SequentialTwoSidedTTest(*statistics, SequentialConfig()).compute_result()
        if result.error_message is None and result.ci[0] > 0.0:
            return i
    return None


def _statistic(arm: list[float], covariate: bool) -> SampleMeanStatistic | RegressionAdjustedStatistic:
    n, loss, loss2, before, before2, product = arm
    mean = SampleMeanStatistic(n=int(n), sum=loss, sum_squares=loss2)
    if not covariate:
        return mean
    earlier = SampleMeanStatistic(n=int(n), sum=before, sum_squares=before2)
    return RegressionAdjustedStatistic(
        n=int(n), post_statistic=mean, pre_statistic=earlier, post_pre_sum_of_products=product, theta=0.0
    )


def main() -> None:
    _, _, plan, result = sys.argv
    rollouts = json.loads(Path(plan).read_text())["rollouts"]
    found = {name: [first_look(one, name == "covariate") for one in rollouts] for name in ("plain", "covariate")}
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
