"""MLflow: runs, model versions, aliases, bundles. No other module of the product uses MLflow's API."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.exceptions import MlflowException

from cluster.errors import RegistryUnavailable, VersionNotFound, WriterReplaced
from cluster.names import rollout_actor
from cluster.settings import Settings, hide_password
from cluster.values import ModelVersion, MoveMark

BUNDLE_PATH = "bundle"
FINGERPRINT_TAG = "rayloop.fingerprint"
GATE_TAG = "rayloop.gate"
KEY_TAG = "rayloop.key"
EPOCH_TAG = "rayloop.epoch"
"""Tag of a registered model: epoch of the rollout controller that last set its aliases."""
MOVE_TAG = "rayloop.move"
"""Tag of a registered model: its MoveMark."""
_ENVIRONMENT = {
    # By default MLflow retries an absent server for minutes, which is too long at a prompt.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


class Run:
    """An MLflow run that is being written."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.id = run_id
        self.failed = False
        """Set it to end the run as FAILED although the block raises nothing."""

    def log_parameters(self, values: Mapping[str, object]) -> None:
        """Log parameters in one request."""
        self._client.log_batch(self.id, params=[Param(name, str(value)) for name, value in values.items()])

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log the metrics that are finite numbers, in one request."""
        self.log_metric_series({name: {step: value} for name, value in values.items()})

    def log_metric_series(self, values: Mapping[str, Mapping[int, float]]) -> None:
        """Log metrics by step, those values that are finite numbers, in one request."""
        now = int(1000 * time.time())
        metrics = [
            Metric(name, value, now, step)
            for name, series in values.items()
            for step, value in series.items()
            if math.isfinite(value)
        ]
        self._client.log_batch(self.id, metrics=metrics)

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run in one request."""
        self._client.log_batch(self.id, tags=[RunTag(name, value) for name, value in values.items()])

    def log_file(self, path: Path, folder: str) -> None:
        """Store a file in a folder among the run's artifacts."""
        self._client.log_artifact(self.id, str(path), folder)

    def log_texts(self, files: Mapping[str, str]) -> None:
        """Store each text under its path among the run's artifacts."""
        for path, text in files.items():
            self._client.log_text(self.id, text, path)


class Registry:
    """Runs and model versions of one MLflow store."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _client(self) -> MlflowClient:
        uri = self._settings.mlflow_uri
        _set_environment()
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        try:
            client.search_experiments(max_results=1)
        except MlflowException as error:
            raise RegistryUnavailable("registry.no_answer", uri=hide_password(uri)) from error
        return client

    def check(self) -> None:
        """Raises RegistryUnavailable when MLflow does not answer."""
        _ = self._client

    @contextmanager
    def run(
        self, experiment: str, name: str, parent: str = "", *, key: str = "", resume: bool = False
    ) -> Iterator[Run]:
        """Open a run for the duration of the block; it ends as FINISHED, or as FAILED when the block raises.

        Args:
            experiment: Name of the MLflow experiment.
            name: Name of the run.
            parent: Id of the run that this one is nested in.
            key: Identifies equal work. An open run of the same key was left by a killed process and ends as KILLED.
            resume: Continue the newest run of ``key`` instead, when there is one.
        """
        resumed = self._newest_run(experiment, key) if resume else ""
        if key and not resumed:
            self._end_open_runs(experiment, key)
        run = Run(self._client, resumed or self._create_run(experiment, name, parent, key))
        if resumed:
            self._client.update_run(resumed, status="RUNNING")
        try:
            yield run
        except BaseException:
            self._client.set_terminated(run.id, "FAILED")
            raise
        self._client.set_terminated(run.id, "FAILED" if run.failed else "FINISHED")

    def child_run_names(self, experiment: str, run: Run) -> set[str]:
        """Names of the runs nested in this one."""
        nested = f"tags.`mlflow.parentRunId` = '{run.id}'"
        runs = self._client.search_runs([self._experiment(experiment)], nested, max_results=10_000)
        return {child.info.run_name for child in runs}

    def register(self, model: str, run: Run, bundle: Path, tags: Mapping[str, str]) -> ModelVersion:
        """Store ``bundle`` with the run and register it as the model's next version."""
        self._client.log_artifacts(run.id, str(bundle), BUNDLE_PATH)
        if not self._has(model):
            self._client.create_registered_model(model)
        source = f"{self._client.get_run(run.id).info.artifact_uri}/{BUNDLE_PATH}"
        return _to_model_version(self._client.create_model_version(model, source, run_id=run.id, tags=dict(tags)))

    def find_version(self, model: str, fingerprint: str) -> ModelVersion | None:
        """Return the version with this fingerprint, if there is one: equal work is not registered twice."""
        return next((version for version in self.versions(model) if version.fingerprint == fingerprint), None)

    def versions(self, model: str) -> list[ModelVersion]:
        """Return all versions of a model, oldest first."""
        versions = self._client.search_model_versions(f"name = '{model}'", max_results=1000)
        return sorted((_to_model_version(v) for v in versions), key=lambda v: int(v.version))

    def version(self, model: str, version: str) -> ModelVersion:
        """Return a version by its number. Raises VersionNotFound."""
        try:
            return _to_model_version(self._client.get_model_version(model, version))
        except MlflowException as error:
            raise VersionNotFound(
                "registry.version_not_found",
                model=model,
                version=version,
                known=[v.version for v in self.versions(model)],
            ) from error

    def version_by_alias(self, model: str, alias: str) -> ModelVersion | None:
        """Return the version that an alias points to; None when the model has no such alias."""
        try:
            return _to_model_version(self._client.get_model_version_by_alias(model, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise RegistryUnavailable(
                "registry.lookup_failed", model=model, alias=alias, reason=error.message
            ) from error

    def set_alias(self, version: ModelVersion, alias: str, epoch: int | None = None) -> None:
        """Point an alias to a version.

        Args:
            version: The version.
            alias: Name of the alias.
            epoch: Of the rollout controller; None for a person.

        Raises:
            WriterReplaced: A newer controller has set an alias of the model.
        """
        self._check_epoch(version.model, epoch)
        self._client.set_registered_model_alias(version.model, alias, version.version)

    def clear_alias(self, model: str, alias: str, epoch: int | None = None) -> None:
        """Remove an alias, if the model has it; as in ``set_alias``."""
        self._check_epoch(model, epoch)
        if self.version_by_alias(model, alias):
            self._client.delete_registered_model_alias(model, alias)

    def set_tag(self, version: ModelVersion, name: str, value: str) -> None:
        """Set a tag of a version."""
        self._client.set_model_version_tag(version.model, version.version, name, value)

    def set_move(self, model: str, move: MoveMark | None) -> None:
        """Mark a model as one that moves between clusters; None: it does not."""
        self._client.set_registered_model_tag(model, MOVE_TAG, move.model_dump_json() if move else "")

    def move(self, model: str) -> MoveMark | None:
        """Return the mark of a model that moves between clusters; None without."""
        text = self._client.get_registered_model(model).tags.get(MOVE_TAG, "")
        return MoveMark.from_stored(text) if text else None

    def fetch(self, version: ModelVersion) -> Path:
        """Return a folder on this machine that holds the version's bundle; it is downloaded when it is elsewhere."""
        return version.local_folder or self._download(version.bundle_uri)

    def fetch_file(self, version: ModelVersion, name: str) -> Path:
        """Return a folder on this machine that holds one file of the bundle; only that file is downloaded."""
        return version.local_folder or self._download(f"{version.bundle_uri}/{name}").parent

    def log_file(self, version: ModelVersion, path: Path, folder: str) -> None:
        """Store a file in a folder among the artifacts of the version's run."""
        self._client.log_artifact(version.run_id, str(path), folder)

    def has_run_file(self, version: ModelVersion, path: str) -> bool:
        """Return whether the version's run has an artifact."""
        files = self._client.list_artifacts(version.run_id, path.rpartition("/")[0] or None)
        return path in [file.path for file in files]

    def fetch_run_file(self, version: ModelVersion, path: str) -> Path:
        """Return a file on this machine that holds an artifact of the version's run."""
        return self._download(f"runs:/{version.run_id}/{path}")

    def fetch_model(self, uri: str) -> Path:
        """Return a folder or file on this machine that holds a model of any MLflow store.

        Args:
            uri: Such as ``models:/name/3`` or ``runs:/id/model``; in the store that MLFLOW_TRACKING_URI names, if it
                is set, else in this one.

        Raises:
            VersionNotFound: The store has no such model.
        """
        _set_environment()
        store = os.environ.get("MLFLOW_TRACKING_URI", self._settings.mlflow_uri)
        registry = os.environ.get("MLFLOW_REGISTRY_URI", store)
        try:
            return Path(mlflow.artifacts.download_artifacts(uri, tracking_uri=store, registry_uri=registry))
        # Each kind of store has errors of its own.
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise VersionNotFound(
                "registry.model_not_fetched", uri=uri, store=hide_password(store), reason=reason
            ) from error

    def model_names(self) -> list[str]:
        """Names of all registered models, in order."""
        return sorted(model.name for model in self._client.search_registered_models(max_results=1000))

    def delete_model(self, model: str) -> None:
        """Delete a registered model with all its versions, if it exists."""
        if self._has(model):
            self._client.delete_registered_model(model)

    def _download(self, uri: str) -> Path:
        return Path(mlflow.artifacts.download_artifacts(uri, tracking_uri=self._settings.mlflow_uri))

    def _check_epoch(self, model: str, epoch: int | None) -> None:
        """Leave the epoch with the model. MLflow cannot compare and set at once: between the two, an older one fits."""
        if epoch is None:
            return
        newest = int(self._client.get_registered_model(model).tags.get(EPOCH_TAG, 0))
        if newest > epoch:
            raise WriterReplaced("cluster.writer_replaced", writer=rollout_actor(model), epoch=epoch, newest=newest)
        if newest < epoch:
            self._client.set_registered_model_tag(model, EPOCH_TAG, str(epoch))

    def _newest_run(self, experiment: str, key: str) -> str:
        """Id of the newest run of a key; empty when there is none."""
        runs = self._client.search_runs([self._experiment(experiment)], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        return str(runs[0].info.run_id) if runs else ""

    def _end_open_runs(self, experiment: str, key: str) -> None:
        open_ = f"tags.`{KEY_TAG}` = '{key}' and attributes.status = 'RUNNING'"
        for run in self._client.search_runs([self._experiment(experiment)], open_):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def _create_run(self, experiment: str, name: str, parent: str, key: str) -> str:
        tags = {"mlflow.runName": name, "mlflow.parentRunId": parent, KEY_TAG: key}
        run = self._client.create_run(
            self._experiment(experiment), tags={n: value for n, value in tags.items() if value}
        )
        return str(run.info.run_id)

    def _has(self, model: str) -> bool:
        return bool(self._client.search_registered_models(f"name = '{model}'"))

    def _experiment(self, name: str) -> str:
        if experiment := self._client.get_experiment_by_name(name):
            return str(experiment.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=f"{self._settings.mlflow_artifacts}/{name}"))


def _to_model_version(mlflow_version: MlflowVersion) -> ModelVersion:
    return ModelVersion(
        model=mlflow_version.name,
        version=str(mlflow_version.version),
        run_id=mlflow_version.run_id or "",
        bundle_uri=mlflow_version.source or "",
        tags=dict(mlflow_version.tags),
    )
