"""What the commands do once they run beside the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cluster.errors import ProjectError, VersionNotFound
from cluster.names import CHAMPION
from rayloop.context import ProjectContext
from rayloop.report import report_data
from rayloop.report.run_summary import print_summary
from rayloop.simulation import scenario
from rayloop.stages import baselines, delete_project, steps
from rayloop.stages import deploy as serving
from rayloop.stages.train_version import choose_recipe as search


def run(workspace: ProjectContext, *, rehearse: bool, fresh: bool) -> None:
    """The loop: data, features, tuning, training, gate, registry, serving; then the rehearsal when asked for."""
    plan = workspace.project.simulation
    if rehearse and plan is None:
        raise ProjectError(
            f"{workspace.project.name} declares no rehearsal", "add Project(rehearsal=...) or leave --rehearse out"
        )
    workspace.registry.check()
    serving.require_same_settings(workspace)
    if fresh:
        delete_project.delete_project(workspace)
    elif rehearse and workspace.registry.versions(workspace.project.name):
        raise ProjectError(
            f"{workspace.project.name} has versions already, and a rehearsal would mix with them",
            "add --fresh to forget them, or rehearse under another project name",
        )
    landed = steps.land_sources(workspace)
    snapshots = steps.snapshots_of(landed)
    frame = steps.training_frame(workspace, snapshots)
    comparison = baselines.start(workspace, frame)
    first, recipe = steps.build_first_version(workspace, frame)
    if not rehearse:
        steps.materialize_online(workspace, snapshots, datetime.now(UTC))
    steps.release(workspace, first.version)
    story = scenario.run_scenario(workspace, plan, snapshots, recipe) if rehearse and plan else None
    with workspace.progress.stage("report"):
        results = baselines.collect(workspace, comparison)
        page = report_data.write_report(workspace, results)
    print_summary(workspace, landed, first, results, story, page)


def tune(workspace: ProjectContext) -> None:
    frame = steps.training_frame(workspace, steps.snapshots_of(steps.land_sources(workspace)))
    with workspace.progress.stage("tune"):
        recipe, found = search(workspace, frame)
        if found is None:
            raise ProjectError(f"{workspace.project.name} declares no search", "add Project(tune=TuneConfig(...))")
        for trial in sorted(found.trials, key=lambda t: t.number):
            chosen = "  ".join(f"{name}={value}" for name, value in trial.parameters.items())
            workspace.progress(
                f"{trial.number:3d}  {trial.stage:<8}  seed {trial.seed}  {trial.status:<8}  {trial.epochs} epochs  {trial.metric:.4f}  {chosen}"
            )
        workspace.progress(f"best: {recipe.config.model_dump_json()} {dict(recipe.spec.parameters)}")


def train(workspace: ProjectContext) -> None:
    from rayloop.stages.train_version import Recipe, build_version

    frame = steps.training_frame(workspace, steps.snapshots_of(steps.land_sources(workspace)))
    with workspace.progress.stage("train"):
        made = build_version(
            workspace, frame, Recipe(workspace.project.model, workspace.project.train), "trained by hand"
        )
        workspace.progress(f"{made.version}: serve it with `rayloop deploy PROJECT --version {made.version.version}`")


def retrain(workspace: ProjectContext, until: datetime, reason: str) -> None:
    serving.require_same_settings(workspace)
    workspace.progress(f"retraining {workspace.project.name} on what was known at {until:%Y-%m-%d %H:%M}: {reason}")
    made = steps.retrain(workspace, until)
    workspace.registry.set_tag(made.version, "rayloop.retrained_because", reason)
    steps.release(workspace, made.version)


def rollback(workspace: ProjectContext, version: str, reason: str) -> None:
    name = workspace.project.name
    champion = workspace.registry.version_by_alias(name, CHAMPION)
    answers = serving.roll_back(workspace, version or (champion.version if champion else ""), reason)
    if champion and answers.version == champion.version:
        workspace.progress(f"v{version} is champion no more: {answers} answers, nothing was changed")
    else:
        workspace.progress(f"{answers} answers again: {reason}")


def deploy(workspace: ProjectContext, numbers: Sequence[str]) -> None:
    name = workspace.project.name
    serving.require_same_settings(workspace)
    versions = workspace.registry.versions(name)
    if not versions:
        raise VersionNotFound(f"model {name!r} has no version", "make one: rayloop run PROJECT")
    chosen = [workspace.registry.version(name, number) for number in numbers] or versions[-1:]
    landed = steps.snapshots_of(steps.land_sources(workspace))
    steps.materialize_online(workspace, landed, datetime.now(UTC), chosen)
    steps.release(workspace, *chosen)


def predict(workspace: ProjectContext, table: str, out: str, version: str, keep: Sequence[str] = ()) -> None:
    from rayloop.stages import batch_predict

    name = workspace.project.name
    chosen = (
        workspace.registry.version(name, version) if version else workspace.registry.version_by_alias(name, CHAMPION)
    )
    if chosen is None:
        raise VersionNotFound(f"model {name!r} has no champion", "give --version, or deploy one")
    with workspace.progress.stage("predict"):
        batch_predict.predict(workspace, chosen, table, out, keep)


def report(workspace: ProjectContext, *, features: bool = False, skew: bool = False) -> None:
    with workspace.progress.stage("report"):
        if features:
            report_data.write_catalog(workspace)
        if skew:
            report_data.write_skew(workspace)
        if not (features or skew):
            workspace.progress(f"written to {report_data.write_report(workspace, baselines.load(workspace))}")


def backfill(workspace: ProjectContext, view: str, since: datetime | None) -> None:
    steps.backfill_view(workspace, view, datetime.now(UTC), since)
