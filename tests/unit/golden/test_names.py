"""Names by which parts of a running system find each other: actors, Serve applications, deployments, routes, tables."""

from __future__ import annotations

from pathlib import Path

from cluster.names import (
    ACTOR_NAMESPACE,
    CHALLENGER,
    CHAMPION,
    annotations_table,
    journal_table,
    label_candidates_table,
    labels_table,
    log_writer_actor,
    lost_rows_table,
    monitor_actor,
    predictions_table,
    rollout_actor,
)
from cluster.settings import Settings
from deployments.http_messages import REQUEST_ID_HEADER, ROUTING_KEY_HEADER, VARIANT_HEADER, VERSION_HEADER
from deployments.inference.challenger_app import Challenger
from deployments.ingress import root_app
from deployments.ingress.model_app import ModelServer
from deployments.rollout import serve_config
from deployments.serve_schema import challenger_app_name, challenger_prefix, model_app_name
from deployments.telemetry import unshipped_rows
from features.manifest import MANIFEST_FILE, MODEL_FILE, PORTABLE_FILE, PROFILE_FILE, WEIGHTS_FILE
from features.sources.erasure_registry import ERASURE_TABLE
from features.sources.ingestion import QUARANTINE
from monitoring.runtime.state_store import STATE, UNREADABLE
from tests.factories.golden import samples
from tests.factories.golden.files import golden


def test_names_are_unchanged() -> None:

    golden(
        "names",
        {
            "namespace": ACTOR_NAMESPACE,
            "actors": [serve_config.ACTOR, *(of("trips") for of in (log_writer_actor, monitor_actor, rollout_actor))],
            "applications": [
                root_app.ROOT_APP,
                model_app_name("trips"),
                challenger_app_name("trips", "r1", "7"),
                challenger_prefix("trips"),
            ],
            "deployments": [root_app.RootApp.name, ModelServer.name, Challenger.name],
            "route": root_app.ROOT_ROUTE,
            "variants": [CHAMPION, CHALLENGER],
            "headers": [REQUEST_ID_HEADER, VERSION_HEADER, VARIANT_HEADER, ROUTING_KEY_HEADER],
            "tables": [
                *(
                    of("trips")
                    for of in (
                        predictions_table,
                        labels_table,
                        lost_rows_table,
                        label_candidates_table,
                        annotations_table,
                        journal_table,
                    )
                ),
                QUARANTINE,
                ERASURE_TABLE,
            ],
            "bundle": [MANIFEST_FILE, MODEL_FILE, PORTABLE_FILE, WEIGHTS_FILE, PROFILE_FILE],
            "monitor": [STATE, UNREADABLE],
            "tallies": str(unshipped_rows.counter_folder(Settings(home=Path("/home")), "trips")),
            "user config": samples.USER_CONFIG,
        },
    )
