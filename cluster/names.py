"""Names that packages share: variants, actors, tables."""

from __future__ import annotations

from typing import Literal

CHAMPION = "champion"


CHALLENGER = "challenger"


Variant = Literal["champion", "challenger"]


ACTOR_NAMESPACE = "rayloop"


def log_writer_actor(model: str) -> str:
    """Name of the actor that writes a model's prediction and label log."""
    return f"ledger:{model}"


def monitor_actor(model: str) -> str:
    """Name of a model's drift monitor actor."""
    return f"monitor:{model}"


def rollout_actor(model: str) -> str:
    """Name of the actor that controls a model's rollout."""
    return f"rollout:{model}"


def predictions_table(model: str) -> str:
    """Iceberg table of a model's answered requests, one row per predicted row."""
    return f"{model}.predictions"


def labels_table(model: str) -> str:
    """Iceberg table of a model's labels in order of arrival."""
    return f"{model}.labels"


def lost_rows_table(model: str) -> str:
    """Iceberg table of the numbers of log rows that were lost with killed replicas, by replica."""
    return f"{model}.lost"


def label_candidates_table(model: str) -> str:
    """Iceberg table of the answered rows whose labels are most informative."""
    return f"{model}.to_label"


def annotations_table(model: str) -> str:
    """Iceberg table of the labels that people gave: who labeled which row, how and when."""
    return f"{model}.annotations"


def journal_table(model: str) -> str:
    """Iceberg table of a model's rollout decisions."""
    return f"{model}.journal"
