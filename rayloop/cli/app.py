"""The commands of ``rayloop`` with their arguments and options.

A command that works on a project runs as a Ray job: see submission.py. Modules that take seconds to import are imported
inside the commands that use them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import click
import typer

from cluster import connection, local_cluster
from cluster.errors import ProjectError, RayloopError
from cluster.node.ports import listens
from cluster.node.session import is_running, processes
from cluster.permissions import PRIVATE_UMASK
from cluster.settings import Settings, load_settings
from rayloop import __version__
from rayloop.cli import key_commands, move_commands, table_commands
from rayloop.cli.submission import run_or_submit, submit_outside, submit_with_file

EXIT_USER_ERROR = 2
EXIT_DIAGNOSED = 1

app = typer.Typer(
    help="A closed loop for models on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(key_commands.app, name="keys")
app.add_typer(move_commands.app, name="move")
app.add_typer(table_commands.app, name="table")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"rayloop {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A closed loop for models on a Ray cluster."""


ProjectArgument = Annotated[str, typer.Argument(help="Path or module name of the project: folder/project.py")]
ModelArgument = Annotated[str, typer.Argument(help="Name of the model, which is that of its project")]
Until = Annotated[str, typer.Option(help="Use only what was known at this time (ISO 8601)")]
Reason = Annotated[str, typer.Option(help="Reason for the rollout journal")]
Only = Annotated[
    str, typer.Option("--rollout", help="Apply only if this is the current rollout; `rayloop status` shows its id")
]
FromVersion = Annotated[
    str, typer.Option(help="Continue the weights or trees of this version; its features must be the project's")
]
OneOf = Annotated[str, typer.Option("--version", help="Challenger version, if there are several")]


def main() -> None:
    """Run the command line; a RayloopError is one line on standard error and exit code 2."""
    os.umask(PRIVATE_UMASK)
    try:
        app()
    except RayloopError as error:
        _fail(error)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to continue", err=True)
        sys.exit(130)
    except Exception as error:
        if (known := _find_rayloop_error(error)) is None:
            raise
        _fail(known)


@app.command()
def up() -> None:
    """Start a Ray cluster and MLflow on this machine, and write configuration for Prometheus and Grafana."""
    _start(load_settings())


@app.command()
def down() -> None:
    """Stop every process of the local cluster, including HAProxy and MLflow."""
    from rayloop.served_models import flush_logs

    settings = load_settings()
    if is_running(settings):
        try:
            flush_logs(settings, typer.echo)
        except Exception as error:
            # A cluster that answers only in part must still be stopped.
            typer.echo(f"cannot commit the prediction log: {error}", err=True)
    count = local_cluster.stop(settings)
    typer.echo(f"stopped {count} processes" if count else "nothing was running")


@app.command(context_settings={"ignore_unknown_options": True})
def node(
    command: Annotated[list[str] | None, typer.Argument(help="`ray start` with its options, after --")] = None,
    supervise: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Start a node of a cluster of several machines, and restart it whenever it ends; `rayloop down` stops it.

    Without a command the node starts as it was started last, as after a reboot.
    """
    from rayloop.cli import node_command

    start = node_command.supervise_node if supervise else node_command.start_node
    start(load_settings(), command or [])
    if not supervise:
        typer.echo("the node is up")


@app.command()
def backup(target: Annotated[str, typer.Argument(help="Empty folder, or URI such as s3://bucket/folder")]) -> None:
    """Copy everything that is stored: tables, versions, online state, keys, journals, reports."""
    settings = load_settings()
    if not submit_outside(settings, "backup", target):
        from rayloop.backup.create import create_backup
        from rayloop.console import ProgressConsole

        create_backup(settings, target, ProgressConsole())


@app.command()
def restore(source: Annotated[str, typer.Argument(help="Folder or URI of a backup")]) -> None:
    """Restore a backup into empty stores, and serve the models again."""
    settings = load_settings()
    if not submit_outside(settings, "restore", source):
        from rayloop.backup.restore import restore_backup
        from rayloop.console import ProgressConsole

        restore_backup(settings, source, ProgressConsole())


@app.command()
def door() -> None:
    """Run this host's door, HAProxy in front of the models' replicas, until it is stopped; see docs/door.md."""
    import logging

    from cluster.door import supervisor

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    supervisor.run(load_settings())


@app.command()
def status() -> None:
    """Show the deployments and their health: replicas, rollouts, drift, costs."""
    settings = load_settings()
    if not submit_outside(settings, "status"):
        from rayloop.cli.status import show_status

        show_status(settings, typer.echo)


@app.command()
def schedule(
    model: Annotated[str, typer.Argument(help="Name of the model; all models without it")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, with the journal")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Start no retraining of the model until --resume")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Start retraining again when it is due")] = False,
    by: Annotated[str, typer.Option(help="Who pauses or resumes; for the journal")] = "",
    reason: Annotated[str, typer.Option(help="Why; for the journal")] = "",
) -> None:
    """Show what retrains each model: triggers, next and last runs, what was missed, what the budget leaves."""
    if (pause or resume) and (not (model and by.strip()) or pause == resume or as_json):
        raise RayloopError("rayloop.schedule_options")
    settings = load_settings()
    words = [model] if model else []
    if submit_outside(settings, "schedule", *words, json=as_json, pause=pause, resume=resume, by=by, reason=reason):
        return
    from rayloop.cli.schedule_command import change_schedule, show_schedules

    if pause or resume:
        change_schedule(settings, model, "pause" if pause else "resume", by.strip(), reason, typer.echo)
    else:
        show_schedules(settings, model, as_json, typer.echo)


@app.command()
def doctor() -> None:
    """Diagnose problems with the machine, the stores and the cluster."""
    settings = load_settings()
    if not submit_outside(settings, "doctor"):
        from rayloop.cli.doctor import run_checks

        if not run_checks(settings, typer.echo):
            sys.exit(EXIT_USER_ERROR)


@app.command()
def demo() -> None:
    """Start a cluster and simulate the whole loop on flights from 2013; deletes any earlier demo."""
    from rayloop.cli.demo import demo_project

    settings = load_settings()
    _start(settings)
    run_or_submit("run", demo_project(settings.home), simulate=True, fresh=True)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the project: lower-case letters, digits and _")],
    table: Annotated[str, typer.Option(help="CSV or Parquet file")],
    label: Annotated[str, typer.Option(help="Column to predict")] = "",
    key: Annotated[str, typer.Option(help='Column that identifies a row; "none": the row\'s place in the file')] = "",
    time: Annotated[str, typer.Option(help='Column with the time of a row; "none": it has no time')] = "",
    entity: Annotated[str, typer.Option(help='Column that says whose a row is, such as a customer; or "none"')] = "",
    task: Annotated[str, typer.Option(help="binary, multiclass or regression")] = "",
) -> None:
    """Write a project that predicts a column of a table: NAME/project.py, and NAME/request.json to ask its model.

    What the options do not say is read from the table; on a terminal, what is not clear is asked.
    """
    from rayloop.scaffold.choices import Answers
    from rayloop.scaffold.init import init_project

    init_project(name, table, Answers(label, key, time, entity, task), _ask, typer.echo)


@app.command("import")
def import_(
    project: Annotated[str, typer.Argument(help="Name of a new project, or name or path of one that there is")],
    model: Annotated[
        str,
        typer.Argument(help="File of ONNX, LightGBM, XGBoost or scikit-learn, or MLflow URI such as models:/name/3"),
    ],
    rows: Annotated[str, typer.Option(help="CSV or Parquet file with reference rows; required for a new project")] = "",
    label: Annotated[str, typer.Option(help="Column with the outcome")] = "",
    key: Annotated[str, typer.Option(help="Column that identifies a row")] = "",
    time: Annotated[str, typer.Option(help="Column with the time of a row; default: the file's")] = "",
    task: Annotated[str, typer.Option(help="binary, multiclass or regression, where the model does not say")] = "",
    columns: Annotated[
        str, typer.Option(help="Names of the model's inputs in order, separated by commas, where it does not have them")
    ] = "",
    output: Annotated[str, typer.Option(help="Of an ONNX graph with several outputs, the one with the scores")] = "",
    trust: Annotated[bool, typer.Option("--trust", help="Run the code that a pickle or an unknown type has")] = False,
) -> None:
    """Serve a model that was trained elsewhere: the first directly, later ones through a rollout.

    It is converted to ONNX and compared with itself on the reference rows, gets a project (NAME/project.py) with
    schema and profile, and becomes a version as a trained one does. Starts a local cluster first if there is none.
    """
    from rayloop.scaffold.import_model import ImportRequest, import_model

    names = tuple(name.strip() for name in columns.split(",") if name.strip())
    request = ImportRequest(project, model, rows, label, key, time, task, names, output, trust)
    reference = import_model(request, load_settings(), typer.echo)
    run_or_submit("import-version", reference, check=lambda declared: _start_if_absent())


@app.command(hidden=True)
def import_version(project: ProjectArgument) -> None:
    """Register and serve the imported model of a project; part of `import`."""
    run_or_submit("import-version", project)


@app.command()
def check(
    project: ProjectArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON")] = False,
) -> None:
    """Judge a project in seconds, without a cluster: columns, files, keys, split, label among the features.

    It reads samples of the tables that are local files. The exit code is 1 if it finds an error.
    """
    from rayloop.project_check.judge import judge_project

    report = judge_project(project)
    typer.echo(report.model_dump_json(indent=1) if as_json else "\n".join(report.lines()))
    if report.errors:
        sys.exit(EXIT_DIAGNOSED)


@app.command()
def run(
    project: ProjectArgument,
    simulate: Annotated[bool, typer.Option(help="Replay history as live traffic once a version is served")] = False,
    fresh: Annotated[bool, typer.Option(help="Delete this project's tables, versions and state first")] = False,
) -> None:
    """Run the whole loop: ingest data, join, tune, train, gate, register, serve, report.

    Where no cluster runs on this machine, and RAYLOOP_ADDRESS names none, one is started first, as `up` does.
    """
    run_or_submit("run", project, check=lambda declared: _start_if_absent(), simulate=simulate, fresh=fresh)


@app.command()
def tune(project: ProjectArgument) -> None:
    """Search for better settings and show the trials."""
    run_or_submit("tune", project)


@app.command()
def train(project: ProjectArgument, from_version: FromVersion = "") -> None:
    """Train the project's model with its declared settings; register it if it passes the gate."""
    run_or_submit("train", project, from_version=from_version or None)


@app.command()
def retrain(
    project: ProjectArgument, until: Until = "", reason: Reason = "by hand", from_version: FromVersion = ""
) -> None:
    """Train the champion's recipe on newer data and roll out the result."""
    moment = _moment(until, "--until")
    run_or_submit("retrain", project, until=moment, reason=reason, from_version=from_version or None)


@app.command()
def rollback(
    project: ProjectArgument,
    version: Annotated[
        str, typer.Option(help="Roll back only if this version is the champion; default: any version")
    ] = "",
    reason: Reason = "by hand",
) -> None:
    """Restore the previous champion for all requests immediately."""
    run_or_submit("rollback", project, version=version or None, reason=reason)


@app.command()
def deploy(
    project: ProjectArgument,
    version: Annotated[
        list[str] | None,
        typer.Option(help="Version; default: the newest. Repeat to roll out several versions together"),
    ] = None,
) -> None:
    """Serve a version. The first is served directly; later ones go through a rollout."""
    run_or_submit("deploy", project, version=version or [])


@app.command(hidden=True)
def serve_again(project: ProjectArgument) -> None:
    """Serve the champion as it was served before; part of `restore`."""
    run_or_submit("serve-again", project)


@app.command()
def predict(
    project: ProjectArgument,
    table: Annotated[str, typer.Argument(help="Parquet file or folder, or a table of the catalog: namespace.table")],
    out: Annotated[str, typer.Argument(help="Folder for the scored Parquet files; must be empty or absent")],
    version: Annotated[str, typer.Option(help="Version; default: the champion")] = "",
    keep: Annotated[
        list[str] | None, typer.Option(help="Input column to keep next to the scores, repeatable; default: all")
    ] = None,
) -> None:
    """Score a table with a registered version."""
    place = str(Path(table).absolute()) if Path(table).exists() else table
    run_or_submit("predict", project, place, str(Path(out).absolute()), version=version or None, keep=keep or [])


@app.command()
def push(
    project: ProjectArgument,
    source: Annotated[str, typer.Argument(help="Name of a source that the project declares")],
    file: Annotated[Path, typer.Argument(help="Parquet, CSV or NDJSON file with rows of that source")],
) -> None:
    """Push the events of a file (Parquet, CSV, NDJSON) into the online store."""
    from rayloop.project import load_project, locate_project

    settings, location = load_settings(), locate_project(project)
    if submit_with_file(settings, location, "push", source, file):
        return
    from rayloop.stages.push import push_file

    pushed = push_file(load_project(location), settings, source, file)
    for view, events in pushed.events.items():
        typer.echo(f"{view}: {events:,} new events")
    for reason, rows in pushed.refused.items():
        typer.echo(f"{rows:,} rows skipped: {reason}")


@app.command()
def promote(model: ModelArgument, version: OneOf = "", reason: Reason = "by hand", rollout: Only = "") -> None:
    """Promote the challenger to champion now."""
    _send(model, "promote", reason, version, rollout)


@app.command()
def abort(model: ModelArgument, version: OneOf = "", reason: Reason = "by hand", rollout: Only = "") -> None:
    """Abort the rollout, or drop one of several challengers: their requests go to the champion."""
    _send(model, "abort", reason, version, rollout)


@app.command()
def pause(model: ModelArgument, reason: Reason = "by hand", rollout: Only = "") -> None:
    """Pause the rollout at its current share."""
    _send(model, "pause", reason, rollout=rollout)


@app.command()
def resume(model: ModelArgument, reason: Reason = "by hand", rollout: Only = "") -> None:
    """Resume a paused rollout."""
    _send(model, "resume", reason, rollout=rollout)


@app.command()
def report(
    project: ProjectArgument,
    features: Annotated[
        bool, typer.Option("--features", help="The feature catalog: views and the versions that use them")
    ] = False,
    skew: Annotated[
        bool, typer.Option("--skew", help="Replay served requests offline and compare, bit for bit")
    ] = False,
) -> None:
    """Write the HTML report of a model or of its features."""
    run_or_submit("report", project, features=features, skew=skew)


@app.command()
def backfill(
    project: ProjectArgument,
    view: Annotated[str, typer.Option(help="Feature view to rebuild online")],
    since: Annotated[str, typer.Option(help="Only entities with events since this time (ISO 8601)")] = "",
) -> None:
    """Ingest new rows of a view's source and rebuild the view's online state from the whole table."""
    start = _moment(since, "--since") if since else None
    run_or_submit("backfill", project, check=lambda declared: declared.view(view), view=view, since=start)


@app.command()
def forget(
    project: ProjectArgument,
    entity: Annotated[list[str], typer.Option(help="column=value; repeat for a key of several columns")],
) -> None:
    """Erase an entity's rows from tables, quarantine, frames, online store and log; print what was deleted where."""
    pairs = [pair.partition("=") for pair in entity]
    if not all(name and equals and value for name, equals, value in pairs):
        raise ProjectError("project.invalid_entity", entity=entity)
    from rayloop.cli.erase_command import erase

    # Not as a job: the entity's name would stay in Ray's list of jobs.
    erase(load_settings(), project, {name: value for name, _, value in pairs}, typer.echo)


@app.command()
def label(
    model: Annotated[str, typer.Argument(help="Name of the model; with --weak, path or module name of the project")],
    out: Annotated[
        Path | None, typer.Option(help="Write the rows to this CSV file, with an empty column label")
    ] = None,
    source: Annotated[Path | None, typer.Option("--in", help="Take the labels of this CSV file, all or none")] = None,
    by: Annotated[str, typer.Option(help="Who labels; required to give labels, by file or by key press")] = "",
    agreement: Annotated[bool, typer.Option("--agreement", help="Show how far the labelers agree")] = False,
    rows: Annotated[int, typer.Option(min=1, help="How many rows of the queue, at most")] = 20,
    labelers: Annotated[int, typer.Option(min=1, help="How many labelers each row gets")] = 1,
    weak: Annotated[
        bool, typer.Option("--weak", help="Show the accuracies of the project's labeling functions")
    ] = False,
    log: Annotated[bool, typer.Option("--log", hidden=True)] = False,
) -> None:
    """Label the rows that are most worth a label: by key press, or by CSV with --out and --in."""
    if sum([out is not None, source is not None, agreement, weak, log]) > 1:
        raise RayloopError("rayloop.label_options", model=model)
    if weak:
        run_or_submit("label", model, check=lambda declared: declared.require_weak_labels(), weak=True)
        return
    from rayloop.cli.label_command import LabelCommand, QueueOptions

    options = QueueOptions(rows, by.strip(), labelers)
    if not options.labeler and not (out is not None or agreement or log):
        raise RayloopError("rayloop.labeler_missing", model=model)
    command = LabelCommand(load_settings(), model, typer.echo)
    if out is not None:
        command.write_rows(out, options)
    elif source is not None:
        command.read_file(source, options.labeler)
    elif agreement:
        command.show_agreement()
    elif log:
        command.hand_over()
    else:
        command.read_keys(options)


@app.command()
def trace(model: ModelArgument, request: Annotated[str, typer.Argument(help="Request id of an answer")]) -> None:
    """Trace a prediction back to its version, run, snapshot, features and code."""
    settings = load_settings()
    if not submit_outside(settings, "trace", model, request):
        from rayloop.cli.trace import show_trace

        show_trace(settings, model, request, typer.echo)


def _start(settings: Settings) -> None:
    from rayloop.cli.metrics_config import write_metrics_config

    state = "started" if local_cluster.start(settings, typer.echo) else "already running"
    typer.echo(f"{state}: dashboard {settings.dashboard}, MLflow {settings.mlflow_server}")
    typer.echo(f"for Prometheus and Grafana: {write_metrics_config(settings)}")


def _start_if_absent() -> None:
    """Start a cluster on this machine, unless another one is named, or one or a node of one runs here."""
    settings = load_settings()
    if settings.address or connection.in_job() or processes(settings) or listens(settings.dashboard_port):
        return
    _start(settings)


def _ask(what: str, columns: Sequence[str]) -> str:
    """Ask for a column on a terminal."""
    if not sys.stdin.isatty():
        return ""
    answers = click.Choice([*columns, *(["none"] if what != "label" else [])])
    return str(typer.prompt(f"Which column is the {what}?", type=answers))


def _send(model: str, command: str, reason: str, version: str = "", rollout: str = "") -> None:
    settings = load_settings()
    if not submit_outside(settings, command, model, reason=reason, version=version, rollout=rollout):
        from rayloop.cli.rollout_commands import send_command

        send_command(settings, model, command, reason, version, rollout)


def _moment(text: str, option: str) -> datetime:
    if not text:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise RayloopError("rayloop.invalid_time", option=option, value=text) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _find_rayloop_error(error: BaseException | None) -> RayloopError | None:
    """Return the RayloopError that Ray wrapped on its way from a worker; None when there is none."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        # Ray's wrapper class is also a RayloopError, but its text is a traceback.
        cause: BaseException | None = getattr(error, "cause", None)
        if isinstance(error, RayloopError) and cause is None:
            return error
        visited.add(id(error))
        error = cause or error.__cause__
    return None


def _fail(error: RayloopError) -> NoReturn:
    typer.echo(f"error: {error} [{error.code}]", err=True)
    sys.exit(EXIT_USER_ERROR)
