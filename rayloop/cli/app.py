"""``rayloop``: the command line. ``python -m rayloop`` is the same.

What does work runs on the cluster: outside of it a command ships the project's folder and submits itself as a Ray job;
inside a Ray job it runs where it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cluster import connection, local_cluster
from cluster.errors import RayloopError
from cluster.settings import load_settings
from rayloop.cli.key_commands import app as keys

EXIT_USER_ERROR = 2
_DEMO = "examples.flights.project"

app = typer.Typer(
    help="A closed loop for models on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(keys, name="keys")

ProjectArgument = Annotated[str, typer.Argument(help="Path or module name of the project: folder/project.py")]
Until = Annotated[str, typer.Option(help="Leave out what was not known at this time (ISO 8601)")]
Reason = Annotated[str, typer.Option(help="Why; it goes into the journal")]
Only = Annotated[
    str, typer.Option("--rollout", help="Only if this is the rollout under way, by the id that `status` shows")
]
OneOf = Annotated[str, typer.Option("--version", help="Which challenger, where there are several")]


def main() -> None:
    """Run the command line; a RayloopError becomes one line and exit code 2."""
    try:
        app()
    except RayloopError as error:
        _fail(error)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to go on", err=True)
        sys.exit(130)
    except Exception as error:
        if (known := _deliberate(error)) is None:
            raise
        _fail(known)


@app.command()
def up() -> None:
    """Start the local Ray cluster, its dashboard and MLflow's pages; write what Prometheus and Grafana need."""
    from rayloop.report import dashboards

    settings = load_settings()
    started = local_cluster.start(settings, typer.echo)
    typer.echo(
        f"{'started' if started else 'already running'}: dashboard {settings.dashboard}, MLflow {settings.mlflow_server}"
    )
    typer.echo(f"for Prometheus and Grafana: {dashboards.write(settings)}")


@app.command()
def down() -> None:
    """End every process of the local cluster, HAProxy and MLflow's pages included."""
    settings = load_settings()
    if local_cluster.is_running(settings):
        _flush_logs(settings)
    count = local_cluster.stop(settings)
    typer.echo(f"stopped {count} processes" if count else "nothing was running")


@app.command()
def status() -> None:
    """Show the cluster, the models it serves, their rollouts and drift monitors."""
    from rayloop.cli.status import show_status

    show_status(load_settings(), typer.echo)


@app.command()
def doctor() -> None:
    """Check the machine, the stores and the cluster; say what to mend."""
    from rayloop.cli.status import check_machine

    if not check_machine(load_settings(), typer.echo):
        sys.exit(EXIT_USER_ERROR)


@app.command()
def demo() -> None:
    """Start a cluster, clear the last demo, and rehearse the whole loop on the flights of 2013."""
    from rayloop.report import dashboards

    settings = load_settings()
    local_cluster.start(settings, typer.echo)
    dashboards.write(settings)
    _work("run", _DEMO, "--rehearse", "--fresh")


@app.command()
def run(
    project: ProjectArgument,
    rehearse: Annotated[
        bool, typer.Option(help="TrafficReplay history as live traffic after the first version")
    ] = False,
    fresh: Annotated[bool, typer.Option(help="Forget this project's tables, versions and state first")] = False,
) -> None:
    """Land, join, tune, train, gate, register, serve; the report at the end."""
    flags = ["--rehearse"] * rehearse + ["--fresh"] * fresh
    _work("run", project, *flags, action=lambda ws: _commands().run(ws, rehearse=rehearse, fresh=fresh))


@app.command()
def tune(project: ProjectArgument) -> None:
    """Search for the best settings and show the table of trials."""
    _work("tune", project, action=lambda ws: _commands().tune(ws))


@app.command()
def train(project: ProjectArgument) -> None:
    """Train the project's model as declared, gate and register it."""
    _work("train", project, action=lambda ws: _commands().train(ws))


@app.command()
def retrain(project: ProjectArgument, until: Until = "", reason: Reason = "by hand") -> None:
    """Train the champion's recipe on the newest data and roll the result out."""
    moment = _moment(until, "--until")
    words = ["retrain", project, "--until", moment.isoformat(), "--reason", reason]
    _work(*words, action=lambda ws: _commands().retrain(ws, moment, reason))


@app.command()
def rollback(
    project: ProjectArgument,
    version: Annotated[str, typer.Option(help="Only if this version is still champion; default: whichever is")] = "",
    reason: Reason = "by hand",
) -> None:
    """Have the champion before this one answer again, at once and for everybody."""
    words = ["rollback", project, *(["--version", version] if version else []), "--reason", reason]
    _work(*words, action=lambda ws: _commands().rollback(ws, version, reason))


@app.command()
def deploy(
    project: ProjectArgument,
    version: Annotated[
        list[str] | None, typer.Option(help="Version; default: the newest. Several are tried at once")
    ] = None,
) -> None:
    """Serve a version: the first outright, a later one, or several, behind a rollout."""
    versions = version or []
    words = [word for number in versions for word in ("--version", number)]
    _work("deploy", project, *words, action=lambda ws: _commands().deploy(ws, versions))


@app.command()
def predict(
    project: ProjectArgument,
    table: Annotated[str, typer.Argument(help="Parquet file or folder, or a table of the catalog: namespace.table")],
    out: Annotated[str, typer.Argument(help="Folder for the scored Parquet files; it must not hold anything")],
    version: Annotated[str, typer.Option(help="Version; default: the champion")] = "",
    keep: Annotated[list[str] | None, typer.Option(help="Column to write beside the scores; default: all")] = None,
) -> None:
    """Score a table with a registered version."""
    place = str(Path(table).absolute()) if Path(table).exists() else table
    words = ["predict", project, place, str(Path(out).absolute())]
    kept = keep or []
    options = (["--version", version] if version else []) + [word for name in kept for word in ("--keep", name)]
    _work(*words, *options, action=lambda ws: _commands().predict(ws, words[2], words[3], version, kept))


@app.command()
def push(project: ProjectArgument, source: str, file: Path) -> None:
    """Put the events of a file (Parquet, CSV, NDJSON) into the online store at once, where that store can be reached."""
    from rayloop.project import load_project, locate_project
    from rayloop.stages.push import push_file

    pushed = push_file(load_project(locate_project(project)), load_settings(), source, file)
    for view, events in pushed.events.items():
        typer.echo(f"{view}: {events:,} new events")
    for reason, rows in pushed.refused.items():
        typer.echo(f"{rows:,} rows left out: {reason}")


@app.command()
def promote(model: str, version: OneOf = "", reason: Reason = "by hand", rollout: Only = "") -> None:
    """Make the challenger champion now."""
    _order(model, "promote", reason, version, rollout)


@app.command()
def abort(model: str, version: OneOf = "", reason: Reason = "by hand", rollout: Only = "") -> None:
    """Send all requests to the champion now, or those of one challenger of several."""
    _order(model, "abort", reason, version, rollout)


@app.command()
def pause(model: str, reason: Reason = "by hand", rollout: Only = "") -> None:
    """Hold the rollout at its share."""
    _order(model, "pause", reason, rollout=rollout)


@app.command()
def resume(model: str, reason: Reason = "by hand", rollout: Only = "") -> None:
    """Let a paused rollout go on."""
    _order(model, "resume", reason, rollout=rollout)


@app.command()
def report(
    project: ProjectArgument,
    features: Annotated[bool, typer.Option("--features", help="The catalogue: views, and who uses them")] = False,
    skew: Annotated[
        bool, typer.Option("--skew", help="TrafficReplay served requests offline and compare, bit for bit")
    ] = False,
) -> None:
    """Write the HTML report of what happened to a model, or of its features."""
    flags = ["--features"] * features + ["--skew"] * skew
    _work("report", project, *flags, action=lambda ws: _commands().report(ws, features=features, skew=skew))


@app.command()
def backfill(
    project: ProjectArgument,
    view: Annotated[str, typer.Option(help="Feature view to make anew online; no other is touched")],
    since: Annotated[str, typer.Option(help="Only entities with events from this time on (ISO 8601)")] = "",
) -> None:
    """Land what is new of a view's source and make the view's online state anew from the whole table."""
    words = ["--view", view, *(["--since", _moment(since, "--since").isoformat()] if since else [])]
    start = _moment(since, "--since") if since else None
    _work(
        "backfill",
        project,
        *words,
        action=lambda ws: _commands().backfill(ws, view, start),
        check=lambda declared: declared.view(view),
    )


@app.command()
def forget(
    project: ProjectArgument,
    entity: Annotated[list[str], typer.Option(help="column=value; given several times, all must hold")],
) -> None:
    """Delete an entity's rows everywhere: tables, quarantine, frames, online store, log. Says what was deleted where."""
    from rayloop.cli.status import forget_entity

    # Here, not as a job: the name must not stay behind in the list of jobs.
    forget_entity(load_settings(), project, entity, typer.echo)


@app.command()
def trace(model: str, request: Annotated[str, typer.Argument(help="Request id of an answer")]) -> None:
    """From one prediction to its version, run, snapshot, features and code."""
    from rayloop.cli.status import show_trace

    show_trace(load_settings(), model, request, typer.echo)


def _work(
    *words: str, action: Callable[[Any], None] | None = None, check: Callable[[Any], object] = lambda declared: None
) -> None:
    """Run ``action`` on the project if this is a Ray job; otherwise submit the same command as one.

    ``check`` raises for words that the project does not know, before a job is made of them.
    """
    from rayloop.project import load_project, locate_project

    location = locate_project(words[1])
    loaded = load_project(location)
    check(loaded)
    settings = load_settings()
    if connection.in_job() and action is not None:
        from cluster.log_suppression import suppress_ray_data_logs
        from rayloop.console import ProgressConsole
        from rayloop.context import ProjectContext

        connection.connect(settings)
        suppress_ray_data_logs()
        action(ProjectContext(loaded, location, settings, ProgressConsole()))
        return
    _submit([words[0], location.module, *words[2:]], location.folder)


def _submit(words: list[str], folder: Path) -> None:
    from cluster import jobs
    from rayloop.code_version import COMMIT, current_commit

    settings = load_settings()
    python = sys.executable if not settings.address else "python"
    job = jobs.submit(settings, [python, "-m", "rayloop", *words], folder, variables={COMMIT: current_commit(folder)})
    typer.echo(f"Ray job {job} (dashboard: {settings.dashboard}/#/jobs/{job})")
    try:
        done = jobs.follow(settings, job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        jobs.cancel(settings, job)
        raise
    if not done:
        sys.exit(jobs.exit_code(settings, job))


def _order(model: str, order: str, reason: str, version: str = "", rollout: str = "") -> None:
    from rayloop.cli.rollout_commands import send_command

    send_command(load_settings(), model, order, reason, typer.echo, version, rollout)


def _flush_logs(settings: Any) -> None:
    from rayloop.cli.status import flush_logs

    try:
        flush_logs(settings, typer.echo)
    except Exception as error:
        # A cluster that is half dead must still be stopped.
        typer.echo(f"the prediction log could not be committed: {error}", err=True)


def _commands() -> Any:
    from rayloop.cli import project_commands

    return project_commands


def _moment(text: str, option: str) -> datetime:
    if not text:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise RayloopError(f"{option} {text!r} is no time", "write it like 2013-12-10T00:00:00+00:00") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _deliberate(error: BaseException | None) -> RayloopError | None:
    """The RayloopError that Ray has wrapped on its way from a worker, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, RayloopError):
            return error
        seen.add(id(error))
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _fail(error: RayloopError) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    sys.exit(EXIT_USER_ERROR)
