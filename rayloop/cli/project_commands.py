"""The commands that work on a project, as they run inside a Ray job."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cluster.errors import ProjectError, VersionNotFound
from rayloop.context import ProjectContext
from rayloop.report import report_data
from rayloop.report.run_summary import print_summary
from rayloop.retraining.retrain_gains import RETRAINED_BECAUSE
from rayloop.retraining.warm_start import load_warm_start
from rayloop.simulation import scenario
from rayloop.stages import baselines, delete_project, feature_data
from rayloop.stages.candidate import Recipe
from rayloop.stages.deploy import follow_triggers, release, require_same_settings, resume_serving, roll_back
from rayloop.stages.retrain import retrain_champion
from rayloop.stages.train_version import build_first_version, build_version, choose_recipe
from trainers.config import IMPORTED, ModelSpec


def run(context: ProjectContext, *, simulate: bool, fresh: bool) -> None:
    """Run the whole loop: data, features, tuning, training, gate, registry, serving, report.

    Args:
        context: The project.
        simulate: Replay the project's simulation as live traffic once a version is served.
        fresh: Delete the project's tables, versions and state first.
    """
    plan = context.project.simulation
    if simulate and plan is None:
        raise ProjectError("project.no_simulation", project=context.project.name)
    context.registry.check()
    require_same_settings(context)
    if fresh:
        delete_project.delete_project(context)
    elif simulate and context.registry.versions(context.project.name):
        raise ProjectError("project.has_versions", project=context.project.name)
    ingestion_results = feature_data.ingest_sources(context)
    snapshots = feature_data.snapshots_of(ingestion_results)
    frame = feature_data.training_frame(context, snapshots)
    comparison = baselines.start(context, frame)
    first, recipe = build_first_version(context, frame)
    if not simulate:
        feature_data.materialize_online(context, snapshots, datetime.now(UTC))
    release(context, first.version)
    follow_triggers(context)
    story = scenario.run_scenario(context, plan, snapshots, recipe) if simulate and plan else None
    with context.progress.stage("report"):
        results = baselines.collect(context, comparison)
        page = report_data.write_report(context, results)
    print_summary(context, ingestion_results, first, results, story, page)


def tune(context: ProjectContext) -> None:
    """Search for better settings and print the trials and the best settings.

    Raises:
        ProjectError: The project declares no search.
    """
    frame = feature_data.training_frame(context, feature_data.snapshots_of(feature_data.ingest_sources(context)))
    with context.progress.stage("tune"):
        recipe, result = choose_recipe(context, frame)
        if result is None:
            raise ProjectError("project.no_search", project=context.project.name)
        for trial in sorted(result.trials, key=lambda t: t.number):
            chosen = "  ".join(f"{name}={value}" for name, value in trial.parameters.items())
            outcome = f"{trial.status:<8}  {trial.epochs} epochs  {trial.metric:.4f}"
            context.progress(f"{trial.number:3d}  {trial.stage:<8}  seed {trial.seed}  {outcome}  {chosen}")
        context.progress(f"best: {recipe.config.model_dump_json()} {dict(recipe.spec.parameters)}")


def train(context: ProjectContext, from_version: str | None = None) -> None:
    """Train the model with the settings that the project declares, and register it if it passes the gate.

    Args:
        context: The project.
        from_version: Continue this version in place of training from the beginning; None: do not.
    """
    recipe = Recipe(context.project.model, context.project.train)
    if from_version:
        recipe = recipe._replace(start=load_warm_start(context, from_version, recipe.spec, recipe.config))
    frame = feature_data.training_frame(context, feature_data.snapshots_of(feature_data.ingest_sources(context)))
    with context.progress.stage("train"):
        version = build_version(context, frame, recipe, "trained by hand").version
        context.progress(f"serve {version} with `rayloop deploy PROJECT --version {version.version}`")


def label(context: ProjectContext, *, weak: bool) -> None:
    """Estimate the accuracies of the project's labeling functions, and print them.

    Args:
        context: The project.
        weak: Always true: labels by hand need no project.
    """
    frame = feature_data.training_frame(context, feature_data.snapshots_of(feature_data.ingest_sources(context)))
    for line in frame.weak_labels.lines() if weak and frame.weak_labels else ():
        context.progress(line)


def import_version(context: ProjectContext) -> None:
    """Gate, register and serve the model that was imported into the project's folder.

    Raises:
        GateFailed: It fails the project's gate.
    """
    require_same_settings(context)
    snapshots = feature_data.snapshots_of(feature_data.ingest_sources(context))
    frame = feature_data.training_frame(context, snapshots)
    with context.progress.stage("import"):
        recipe = Recipe(ModelSpec(build=IMPORTED), context.project.train)
        version = build_version(context, frame, recipe, "imported").version
    feature_data.materialize_online(context, snapshots, datetime.now(UTC), [version])
    release(context, version)
    follow_triggers(context)


def retrain(context: ProjectContext, until: datetime, reason: str, from_version: str | None = None) -> None:
    """Train the champion's recipe on newer data and roll the result out.

    Args:
        context: The project.
        until: Use only what was known at this time.
        reason: Why; stored as a tag of the new version.
        from_version: Continue this version in place of training from the beginning; None: do not.
    """
    require_same_settings(context)
    context.progress(f"retraining {context.project.name} on the data known at {until:%Y-%m-%d %H:%M}: {reason}")
    candidate = retrain_champion(context, until, from_version)
    context.registry.set_tag(candidate.version, RETRAINED_BECAUSE, reason)
    release(context, candidate.version)


def rollback(context: ProjectContext, version: str | None, reason: str) -> None:
    """Restore the previous champion for all requests.

    Args:
        context: The project.
        version: Do so only if this version is the champion; None: any.
        reason: Why; written to the rollout journal.
    """
    champion = context.champion
    restored = roll_back(context, version or (champion.version if champion else ""), reason)
    if champion and restored.version == champion.version:
        context.progress(f"nothing to roll back: v{version} is not the champion, {restored} is")
    else:
        context.progress(f"{restored} is champion again: {reason}")


def deploy(context: ProjectContext, version: Sequence[str]) -> None:
    """Serve versions: the first one directly, later ones through a rollout.

    Args:
        context: The project.
        version: The versions, several for a rollout with several challengers; empty: the newest.

    Raises:
        VersionNotFound: There is no such version.
    """
    name = context.project.name
    require_same_settings(context)
    versions = context.registry.versions(name)
    if not versions:
        raise VersionNotFound("registry.no_version", model=name)
    chosen = [context.registry.version(name, number) for number in version] or versions[-1:]
    snapshots = feature_data.snapshots_of(feature_data.ingest_sources(context))
    feature_data.materialize_online(context, snapshots, datetime.now(UTC), chosen)
    release(context, *chosen)
    follow_triggers(context)


def serve_again(context: ProjectContext) -> None:
    """Serve the champion as it was served before, after a restore."""
    with context.progress.stage("serve"):
        context.progress(f"{resume_serving(context)} is served")


def predict(context: ProjectContext, table: str, out: str, version: str | None, keep: Sequence[str]) -> None:
    """Score a table with a registered version.

    Args:
        context: The project.
        table: Parquet file or folder, or a table of the catalog: ``namespace.table``.
        out: Folder for the scored Parquet files; must be empty or absent.
        version: The version; None: the champion.
        keep: Columns to keep beside the scores; empty: all.

    Raises:
        VersionNotFound: There is no such version, or no champion.
    """
    from rayloop.stages import batch_predict

    name = context.project.name
    chosen = context.registry.version(name, version) if version else context.champion
    if chosen is None:
        raise VersionNotFound("registry.no_champion", model=name)
    with context.progress.stage("predict"):
        batch_predict.predict(context, chosen, table, out, keep)


def report(context: ProjectContext, *, features: bool = False, skew: bool = False) -> None:
    """Write the HTML report of the model, or the pages that are chosen instead.

    Args:
        context: The project.
        features: Write the catalog of views and of the versions that use them.
        skew: Write the comparison of served features with those of an offline replay.
    """
    with context.progress.stage("report"):
        pages = [report_data.write_catalog(context)] if features else []
        pages += [report_data.write_skew(context)] if skew else []
        for page in pages or [report_data.write_report(context, baselines.load(context))]:
            context.progress(f"written to {page}")


def backfill(context: ProjectContext, view: str, since: datetime | None) -> None:
    """Ingest new rows of a view's source and rebuild the view's online state from the whole table.

    Args:
        context: The project.
        view: Name of the view.
        since: Rebuild only entities with events since this time; None: all.
    """
    feature_data.backfill_view(context, view, datetime.now(UTC), since)
