"""Votes of simulated labeling functions, whose accuracies are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from cluster.values import Task
from features.labeling.label_model import UNKNOWN
from features.labeling.labeling_functions import ABSTAIN, WeakLabels, labeling_function

BINARY = Task(kind="binary", label="y")


def draw_classes(rows: int, prior: Sequence[float], seed: int) -> np.ndarray:
    """Classes of rows, [rows]."""
    return np.random.default_rng([seed, 0]).choice(len(prior), rows, p=prior)


def draw_votes(
    classes: np.ndarray, accuracies: Sequence[float], coverages: Sequence[float], seed: int, count: int = 2
) -> np.ndarray:
    """Votes of functions that depend on the class only, [rows, functions]; ``count`` is the number of classes."""
    rng = np.random.default_rng([seed, 1])
    columns = []
    for accuracy, coverage in zip(accuracies, coverages, strict=True):
        wrong = (classes + rng.integers(1, count, len(classes))) % count
        votes = np.where(rng.random(len(classes)) < accuracy, classes, wrong)
        columns.append(np.where(rng.random(len(classes)) < coverage, votes, ABSTAIN))
    return np.stack(columns, axis=1)


def vote_table(votes: np.ndarray, classes: np.ndarray, true: int = 0) -> pl.DataFrame:
    """Rows with a column for each function, v0, v1, …, null to abstain, and the label of the first ``true`` rows."""
    labels = np.where(np.arange(len(classes)) < true, classes, UNKNOWN)
    columns = {f"v{j}": votes[:, j] for j in range(votes.shape[1])}
    rows = pl.DataFrame(columns).with_columns(pl.all().replace(ABSTAIN, None).cast(pl.Float64))
    return rows.with_columns(label=labels)


def functions_of(table: pl.DataFrame) -> WeakLabels:
    """Functions that vote as the columns v0, v1, … say."""
    names = [name for name in table.columns if name.startswith("v")]
    return WeakLabels(functions=tuple(labeling_function(f"f{name[1:]}", pl.col(name)) for name in names))
