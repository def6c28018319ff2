"""The queue of answered rows that are worth a label, and what a labeler sees of each.

The drift monitor's analyses fill it with the rows of the largest expected loss (monitoring/analysis/log_analysis.py). A
row leaves it when it has a label, from /feedback or from as many labelers as the caller wants for a row.
"""

from __future__ import annotations

import polars as pl

from cluster.errors import DataError
from cluster.names import label_candidates_table, labels_table, predictions_table
from cluster.storage.tables import Tables
from cluster.values import Task
from features.labeling.annotations import LABELER, current_annotations
from features.types import AS_OF

WHY, SCORE, PREDICTED, FEATURES = "why", "score", "predicted", "features"
_LOGGED = ("id", "request", "row", "version", "at", AS_OF)


def read_queue(
    tables: Tables, model: str, task: Task, annotations: pl.DataFrame, *, rows: int, labeler: str, labelers: int
) -> pl.DataFrame:
    """Read the rows that are worth a label most.

    Args:
        tables: Tables of the model.
        model: Name of the model.
        task: Its task.
        annotations: All labels by labelers so far.
        rows: How many rows, at most.
        labeler: Who will label them: rows that this labeler has labeled are left out; empty: anybody.
        labelers: How many labelers each row gets.

    Returns:
        The rows, largest expected loss first: ``id``, ``request``, ``row``, ``version``, ``at``, ``as_of``, ``score``
        (of the predicted class, where there are several), ``predicted``, ``why``, ``features`` (a struct).

    Raises:
        DataError: No row waits for a label.
    """
    name = label_candidates_table(model)
    candidates = pl.DataFrame(tables.read(name)) if tables.exists(name) else pl.DataFrame()
    if candidates.is_empty():
        raise DataError("data.label_queue_empty", model=model)
    log = labels_table(model)
    labeled = tables.read(log, columns=["id"])["id"].to_pylist() if tables.exists(log) else []
    waiting = rank_candidates(candidates, pl.Series("id", labeled, pl.String), annotations, labeler, labelers)
    answered = _answered(tables, model, task, waiting.get_column("id"))
    queue = waiting.join(answered, on="id", maintain_order="left").head(rows)
    if queue.is_empty():
        raise DataError("data.label_queue_empty", model=model)
    return queue


def rank_candidates(
    candidates: pl.DataFrame, labeled: pl.Series, annotations: pl.DataFrame, labeler: str, labelers: int
) -> pl.DataFrame:
    """Choose the candidates that still want a label from a labeler, in order of their worth.

    Args:
        candidates: ``id``, ``version``, ``window`` and ``worth`` (expected loss) of what the analyses queued.
        labeled: Ids with a label in the label log.
        annotations: All labels by labelers.
        labeler: Who will label them; empty: anybody.
        labelers: How many labelers each row gets.

    Returns:
        ``id`` and ``why``, largest worth first.
    """
    rank = pl.col("worth").rank("ordinal", descending=True).over("version", "window")
    ranked = candidates.with_columns(rank=rank, of=pl.len().over("version", "window"))
    by_worth = ranked.sort("worth", "id", descending=[True, False]).unique("id", keep="first", maintain_order=True)
    count = pl.len().alias("given"), (pl.col(LABELER) == labeler).any().alias("mine")
    given = current_annotations(annotations).group_by("id").agg(count)
    beside = by_worth.join(given, on="id", how="left", maintain_order="left")
    # A row that /feedback has labeled needs no labeler; one with a single label may get a second opinion.
    wants = pl.when(pl.col("given").is_null()).then(~pl.col("id").is_in(labeled.implode())).otherwise(
        (pl.col("given") < labelers) & ~pl.col("mine")
    )  # fmt: skip
    why = pl.format(
        "expected loss {}, number {} of {} in the window of {}",
        pl.col("worth").round_sig_figs(3), "rank", "of", pl.col("window").dt.strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip
    return beside.filter(wants).select("id", why.alias(WHY))


def _answered(tables: Tables, model: str, task: Task, ids: pl.Series) -> pl.DataFrame:
    """What the prediction log says about some rows."""
    output = "probabilities" if task.kind == "multiclass" else "score"
    columns = [*_LOGGED, output, *([PREDICTED] if task.kind == "multiclass" else []), FEATURES]
    wanted, no_rows = ids.to_frame(), pl.DataFrame(schema={"id": pl.String})
    parts = [
        pl.DataFrame(part).join(wanted, on="id", how="semi")
        for part in tables.stream(predictions_table(model), columns=columns)
    ]
    found = pl.concat([no_rows, *parts], how="diagonal_relaxed")
    if found.is_empty():
        return no_rows
    found = found.unique("id", keep="first", maintain_order=True).drop_nulls(output)
    if task.kind == "multiclass":
        return found.with_columns(pl.col(output).list.max().alias(SCORE)).drop(output)
    return found.with_columns(pl.lit(None, pl.String).alias(PREDICTED))
