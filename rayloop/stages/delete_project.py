"""Delete a project: its applications, tables, versions, online state and files."""

from __future__ import annotations

import shutil

import ray

from cluster import names
from cluster.actors import actor_exists, find_actor, get_result
from deployments.rollout import serve_config
from deployments.rollout.serve_config import connect_config_writer
from deployments.telemetry import unshipped_rows
from features.offline.weak_frame import weak_table
from features.sources.ingestion import QUARANTINE
from monitoring.runtime.monitor_actor import monitor_store
from rayloop.context import ProjectContext
from trainers.loop.checkpointer import Checkpointer


def delete_project(context: ProjectContext) -> None:
    """Stop serving the project and delete its state. MLflow's runs are kept as history."""
    name = context.project.name
    with context.progress.stage("reset"):
        # Without the actor that writes Serve's configuration, nothing was ever served.
        if actor_exists(serve_config.ACTOR):
            get_result(connect_config_writer(context.settings).remove.remote(name))
        for actor in (names.rollout_actor(name), names.monitor_actor(name), names.log_writer_actor(name)):
            if (handle := find_actor(actor)) is not None:
                ray.kill(handle)
        sources = [f"{name}.{source.name}" for source in context.project.sources]
        logs = [names.predictions_table(name), names.labels_table(name), names.lost_rows_table(name)]
        logs += [names.journal_table(name), names.label_candidates_table(name), names.annotations_table(name)]
        # The registry of erased entities is kept: a fresh start must not ingest them again.
        for table in [*sources, *logs, f"{name}.{QUARANTINE}", context.frame_table, weak_table(context.frame_table)]:
            context.tables.drop(table)
        context.registry.delete_model(name)
        context.store.delete(context.store.keys(b""))
        context.delete_files()
        monitor_store(context.settings, name).clear()
        Checkpointer(context.checkpoints).clear()
        shutil.rmtree(unshipped_rows.counter_folder(context.settings, name), ignore_errors=True)
        context.progress(f"deleted the state of {name}")
