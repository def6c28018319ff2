"""A project is judged by samples of its tables: each fault has its diagnostic, and a sound project has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from cluster.values import Task
from deployments.rollout_policy import RolloutPolicy
from features.builders import category, derive, number, timestamp
from features.definitions import Aggregate, Entity, FeatureSet, FeatureView
from features.sources.outcome_labels import label_within
from features.sources.source import Examples
from features.sources.table_files import TableSample
from features.split import HashSplit
from rayloop.project import Project
from rayloop.project_check.check import Judgment, check_project
from rayloop.project_check.diagnostics import Diagnostic
from tests.factories.rayloop.orders import SPLIT, orders, orders_project, orders_source, spending

CUSTOMER = category("customer")


def sample(rows: pl.DataFrame, total: int | None = -1) -> TableSample:
    return TableSample(rows, tuple(rows.columns), rows.height if total == -1 else total)


def judge(project: Project, rows: pl.DataFrame | None = None, total: int | None = -1) -> Judgment:
    return check_project(project, {"orders": sample(orders() if rows is None else rows, total)})


def codes(judgment: Judgment) -> list[tuple[str, str]]:
    return [(diagnostic.severity, diagnostic.code) for diagnostic in judgment.diagnostics]


def only(judgment: Judgment) -> Diagnostic:
    (diagnostic,) = judgment.diagnostics
    return diagnostic


def only_error(judgment: Judgment) -> Diagnostic:
    (diagnostic,) = (diagnostic for diagnostic in judgment.diagnostics if diagnostic.severity == "error")
    return diagnostic


def delivered_after(delay: timedelta) -> pl.DataFrame:
    return orders().with_columns((pl.col("ordered_at") + delay).alias("delivered_at"))


def with_columns(*names: str, kind: Callable[..., tuple[Any, ...]] = number) -> Any:
    source = orders_source()
    return orders_source(columns=(*source.columns, *kind(*names)))


def test_sound_project_has_no_finding_and_its_parts_are_counted() -> None:
    judgment = judge(orders_project())
    assert judgment.diagnostics == []
    assert judgment.unseen == []
    assert "all 1,200 rows" in judgment.facts[0]
    # Twenty rows a day, and a label is known a quarter of a day after its row.
    assert judgment.facts[1].startswith(
        "split: 796 train, 196 validation, 200 test; purged: 4 train, 4 validation rows"
    )


def test_label_column_among_the_features_is_found_without_rows() -> None:
    project = orders_project(request=(*CUSTOMER, *number("price", "late")))
    diagnostic = only(check_project(project, {}))
    assert (diagnostic.severity, diagnostic.code, diagnostic.where) == (
        "error",
        "project.label_is_feature",
        "feature 'late'",
    )


def test_label_column_that_the_feature_set_leaves_out_is_no_feature() -> None:
    features = FeatureSet(
        name="orders", request=(*CUSTOMER, *number("price", "late")), views=(spending(),), features=("price",)
    )
    assert check_project(orders_project(features=features), {}).diagnostics == []


@pytest.mark.parametrize(
    ("added", "kind"),
    [
        (pl.when(pl.col("late") == 1).then(pl.lit("refunded")).otherwise(pl.lit("kept")), category),
        (-3.0 * pl.col("late") + pl.col("price").rank() / 10_000, number),
    ],
    ids=["category", "number"],
)
def test_feature_that_determines_a_binary_label_is_found(added: pl.Expr, kind: Any) -> None:
    project = orders_project(with_columns("refund", kind=kind), request=(*CUSTOMER, *kind("refund")))
    diagnostic = only(judge(project, orders().with_columns(added.alias("refund"))))
    assert (diagnostic.code, diagnostic.where) == ("project.feature_determines_label", "feature 'refund'")


def test_feature_in_the_order_of_a_regression_label_is_found() -> None:
    task = Task(kind="regression", label="price")
    project = orders_project(
        with_columns("gross"), request=(*CUSTOMER, *number("gross")), task=task, label=pl.col("price")
    )
    diagnostic = only(judge(project, orders().with_columns((pl.col("price") * 1.19 + 2).alias("gross"))))
    assert (diagnostic.code, diagnostic.where) == ("project.feature_determines_label", "feature 'gross'")


def test_derived_feature_and_view_that_contain_the_row_itself_are_found() -> None:
    request = (*CUSTOMER, *timestamp("ordered_at"), *number("late"))
    features = FeatureSet(
        name="orders", request=request, derived=(derive("copy", pl.col("late") * 2),), features=("copy",)
    )
    assert only(judge(orders_project(features=features))).where == "feature 'copy'"
    now = Aggregate(column="late", op="max", window=timedelta(microseconds=1), name="late_now")
    own = FeatureView(
        name="own",
        entity=Entity(name="customer", keys=("customer",)),
        source="orders",
        event_time="ordered_at",
        known_at="ordered_at",
        aggregates=(now,),
    )
    features = FeatureSet(name="orders", request=CUSTOMER, views=(own,))
    assert only(judge(orders_project(features=features))).where == "feature 'late_now'"


def test_feature_that_the_gate_would_refuse_is_a_warning() -> None:
    nearly = pl.when(pl.int_range(pl.len()) % 101 == 0).then(1 - pl.col("late")).otherwise(pl.col("late"))
    project = orders_project(with_columns("guess"), request=(*CUSTOMER, *number("guess")))
    diagnostic = only(judge(project, orders().with_columns(nearly.alias("guess"))))
    assert (diagnostic.severity, diagnostic.code) == ("warning", "project.feature_too_skilled")


def test_unique_id_among_the_features_does_not_determine_the_label() -> None:
    assert judge(orders_project(request=category("customer", "order"))).diagnostics == []


def test_key_that_repeats_with_other_values_is_found() -> None:
    by_customer = orders_source(key=("customer",))
    monthly = orders().with_columns(pl.col("delivered_at").dt.truncate("30d") + timedelta(days=40))
    found = codes(judge(orders_project(by_customer), monthly))
    assert ("error", "project.key_repeats") in found


def test_equal_rows_and_corrections_are_no_repeated_key() -> None:
    table = orders()
    correction = table.head(60).with_columns(pl.col("delivered_at") + timedelta(hours=1), price=9.0)
    assert judge(orders_project(), pl.concat([table, table.head(60), correction])).diagnostics == []


@pytest.mark.parametrize(("rows", "severity"), [(1200, "error"), (60, "warning")])
def test_known_before_it_happened_is_found(rows: int, severity: str) -> None:
    early = pl.when(pl.int_range(pl.len()) < rows).then(pl.col("ordered_at") - timedelta(hours=1))
    table = orders().with_columns(early.otherwise("delivered_at").alias("delivered_at"))
    assert (severity, "data.known_before_event") in codes(judge(orders_project(), table))


def test_missing_column_and_column_of_another_kind_are_found() -> None:
    diagnostic = only(judge(orders_project(), orders().drop("price")))
    assert (diagnostic.code, diagnostic.where) == ("data.missing_columns", "source 'orders'")
    diagnostic = only(judge(orders_project(), orders().with_columns(pl.lit("cheap").alias("price"))))
    assert (diagnostic.severity, diagnostic.code) == ("error", "data.column_unusable")


def test_rows_that_break_a_rule_are_a_warning_and_none_left_an_error() -> None:
    half = float(orders()["price"].median())  # type: ignore[arg-type]
    diagnostic = only(judge(orders_project(orders_source(ranges={"price": (0, half)}))))
    assert (diagnostic.severity, diagnostic.code) == ("warning", "data.rows_refused")
    diagnostic = only(judge(orders_project(orders_source(ranges={"price": (-2, -1)}))))
    assert (diagnostic.severity, diagnostic.code) == ("error", "data.rows_refused")


def test_label_that_the_task_does_not_have_is_found() -> None:
    assert only(judge(orders_project(label=pl.col("late") + 1))).code == "data.unknown_label"
    assert only(judge(orders_project(label=pl.col("late").replace({0: None, 1: None})))).code == "data.no_examples"


def test_split_that_purges_a_part_names_dates_that_work() -> None:
    diagnostic = only_error(judge(orders_project(), delivered_after(timedelta(days=11))))
    assert (diagnostic.code, diagnostic.where) == ("data.split_purged", "split")
    assert "validate_from 2024-0" in diagnostic.todo


def test_part_without_rows_by_date_is_found() -> None:
    moved = SPLIT.model_copy(
        update={"end": SPLIT.end + timedelta(days=400), "test_from": SPLIT.end + timedelta(days=9)}
    )
    diagnostic = only(judge(orders_project(split=moved)))
    assert (diagnostic.code, diagnostic.where) == ("project.split_part_empty", "split")
    assert "validate_from 2024-02-1" in diagnostic.todo


def test_many_purged_rows_and_slow_labels_are_warnings() -> None:
    slow = delivered_after(timedelta(days=2))
    assert codes(judge(orders_project(), slow)) == [("warning", "data.rows_purged"), ("warning", "project.slow_labels")]
    declared = orders_project(rollout=RolloutPolicy(path="health"))
    assert codes(judge(declared, slow)) == [("warning", "data.rows_purged")]


def test_hash_split_over_time_is_a_warning() -> None:
    assert codes(judge(orders_project(split=HashSplit()))) == [("warning", "project.split_regardless_of_time")]


def test_split_is_estimated_from_a_spread_sample_and_not_from_the_first_rows() -> None:
    whole, spread = judge(orders_project()), judge(orders_project(), orders().gather_every(4), total=1200)
    assert spread.diagnostics == whole.diagnostics == []
    assert spread.facts[1].endswith("(estimated)")
    first = judge(orders_project(), orders().head(300), total=None)
    assert first.diagnostics == []
    assert any(text.startswith("the split") for text in first.unseen)


def test_label_of_later_rows_is_split_by_its_delay_and_not_compared() -> None:
    label = label_within(orders_source(), Entity(name="customer", keys=("customer",)), timedelta(days=2))
    examples = Examples(source="orders", id="order", label=label, event_time="ordered_at")
    judgment = judge(replace(orders_project(), examples=examples))
    assert codes(judgment) == [("warning", "data.rows_purged"), ("warning", "project.slow_labels")]
    assert any("label" in text for text in judgment.unseen)
