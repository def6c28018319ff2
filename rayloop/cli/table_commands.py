"""``rayloop table``: snapshots of tables, their tags, what differs between two, and the way back (docs/features.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import DataError
from cluster.permissions import current_user
from cluster.settings import load_settings
from cluster.times import format_utc
from rayloop.cli.submission import require_stores
from rayloop.console import table_lines

if TYPE_CHECKING:
    import polars as pl

    from cluster.storage.tables import Tables
    from features.inspection.table_comparison import ColumnFigures, TableDifference

_STORES = ("catalog_uri", "warehouse")
_LIST = ("table", "rows", "snapshots", "changed", "tags")
_HISTORY = ("snapshot", "time", "operation", "rows", "added", "deleted", "tags", "")

app = typer.Typer(help="Compare, tag and roll back tables.", no_args_is_help=True)
TableArgument = Annotated[str, typer.Argument(help="Name of the table, as `rayloop table list` shows it")]
Reference = Annotated[str, typer.Argument(help="Tag or number of a snapshot, as `rayloop table history` shows it")]
Why = Annotated[str, typer.Option("--reason", help="Reason, stored with the change")]


@app.command("list")
def show(project: Annotated[str, typer.Argument(help="Only tables of this project")] = "") -> None:
    """List the tables."""
    from cluster.storage.table_history import list_snapshots

    tables = _tables()
    namespaces = [project] if project else sorted(".".join(name) for name in tables.catalog.list_namespaces())
    names = [name for namespace in namespaces for name in tables.table_names(namespace)]
    rows = []
    for name in names:
        found = list_snapshots(tables, name)
        current = next((snapshot for snapshot in found if snapshot.state == "current"), None)
        tags = ", ".join(tag for snapshot in found for tag in snapshot.tags)
        changed = format_utc(current.at if current else None)
        rows.append((name, f"{current.rows if current else 0:,}", str(len(found)), changed, tags))
    _print(_LIST, rows)


@app.command()
def history(name: TableArgument) -> None:
    """Show the snapshots of a table, and who tagged it or rolled it back."""
    from cluster.storage.table_history import changes, list_snapshots

    tables = _tables()
    rows = [
        (
            str(v.id), format_utc(v.at), v.operation, f"{v.rows:,}", f"{v.added:,}", f"{v.deleted:,}",
            ", ".join(v.tags), "" if v.state == "earlier" else v.state,
        )
        for v in list_snapshots(tables, name)
    ]  # fmt: skip
    _print(_HISTORY, rows)
    for what, change in changes(tables, name).items():
        left = f"from {change.left} " if change.left is not None else ""
        reason = f": {change.reason}" if change.reason else ""
        typer.echo(f"{what}: {left}to {change.snapshot} at {format_utc(change.at)} by {change.by}{reason}")


@app.command()
def tag(
    name: TableArgument,
    label: Annotated[str, typer.Argument(metavar="TAG", help="The name: letters, digits, '.', '_' and '-'")],
    snapshot: Annotated[str, typer.Option(help="Tag or number of the snapshot; default: the current one")] = "current",
    reason: Why = "",
    delete: Annotated[bool, typer.Option("--delete", help="Remove the tag; the snapshot stays")] = False,
) -> None:
    """Give a snapshot of a table a name."""
    from cluster.storage.table_history import add_tag, remove_tag

    if delete:
        remove_tag(_tables(), name, label)
        typer.echo(f"{name}: {label} is removed")
        return
    tagged = add_tag(_tables(), name, label, snapshot, current_user(), reason)
    typer.echo(f"{name}: {label} is snapshot {tagged}")


@app.command()
def compare(
    name: TableArgument,
    before: Reference,
    after: Annotated[str, typer.Argument(help="The other snapshot; default: the current one")] = "current",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Compare two snapshots of a table: keys, rows, and figures of each column."""
    from cluster.storage.table_history import find_snapshot
    from features.inspection.table_comparison import compare_tables
    from features.sources.stored_rows import table_key

    tables = _tables()
    sides = [_side(tables, name, find_snapshot(tables, name, reference)) for reference in (before, after)]
    key = table_key(tables, name)
    difference = compare_tables(sides[0], sides[1], key)
    if as_json:
        columns = [
            {"column": c.column, **{n: f and f._asdict() for n, f in (("before", c.before), ("after", c.after))}}
            for c in difference.columns
        ]
        typer.echo(json.dumps({"schema_version": 1, "key": list(key), **difference._asdict(), "columns": columns}))
        return
    _describe(difference, key)


@app.command()
def rollback(name: TableArgument, snapshot: Reference, reason: Why = "") -> None:
    """Make an earlier snapshot of a source's table the current one. The one that it leaves can be restored."""
    from cluster.storage.table_history import roll_back
    from features.sources.stored_rows import table_key

    tables = _tables()
    if not table_key(tables, name):
        raise DataError("data.not_a_source_table", table=name)
    done = roll_back(tables, name, snapshot, current_user(), reason)
    typer.echo(f"{name}: {done.rows[0]:,} rows before, {done.rows[1]:,} now")
    typer.echo(f"back: rayloop table rollback {name} {done.left}")
    source = name.rpartition(".")[2]
    typer.echo(
        "Correct the source before the next ingestion, or its rows land again. The online store still has the rows "
        f"that were rolled back: run `rayloop backfill PROJECT --view VIEW` for each view of {source!r}, once the "
        "source has rows up to the time of those."
    )


def _tables() -> Tables:
    from cluster.storage.tables import Tables

    settings = load_settings()
    require_stores(settings, *_STORES)
    return Tables(settings)


def _side(tables: Tables, name: str, snapshot: int) -> tuple[list[str], Iterator[pl.DataFrame]]:
    import polars as pl

    from cluster.values import Snapshot

    columns = tables.parts(Snapshot(table=name, id=snapshot, rows=0))[0].names
    return columns, (pl.DataFrame(part) for part in tables.stream(name, snapshot))


def _describe(difference: TableDifference, key: tuple[str, ...]) -> None:
    before, after = difference.rows
    unit = f"keys ({', '.join(key)})" if key else "rows"
    typer.echo(f"rows: {before:,} before, {after:,} after")
    changed = f", {difference.changed:,} changed" if key else ""
    typer.echo(f"{unit}: {difference.added:,} added, {difference.removed:,} removed{changed}")
    cells = [(c.column, _figures(c.before), _figures(c.after)) for c in difference.columns]
    if cells:
        _print(("column", "before", "after"), cells)


def _figures(figures: ColumnFigures | None) -> str:
    if figures is None:
        return "no such column"
    mean = "" if figures.mean is None else f", mean {figures.mean:.6g}"
    span = f", {figures.low} to {figures.high}" if figures.low or figures.high else ""
    return f"{figures.missing:,} missing{mean}{span}"


def _print(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    for line in table_lines([header, *rows]):
        typer.echo(line)
