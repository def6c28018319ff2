"""The only door to MLflow: runs, versions, aliases, bundles."""

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

from cluster.errors import RegistryUnavailable, VersionNotFound
from cluster.settings import Settings
from cluster.values import ModelVersion

BUNDLE_PATH = "bundle"
FINGERPRINT_TAG = "rayloop.fingerprint"
GATE_TAG = "rayloop.gate"
KEY_TAG = "rayloop.key"
# MLflow retries a dead server for minutes by default; a person waiting at a prompt should not.
_HTTP_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Run:
    """One MLflow run that is being written."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.id = run_id
        self.failed = False
        """Set to end as FAILED without an error here."""

    def log_parameters(self, values: Mapping[str, object]) -> None:
        self._client.log_batch(self.id, params=[Param(name, str(value)) for name, value in values.items()])

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Those that are finite numbers, in one transaction."""
        self.log_metric_series({name: {step: value} for name, value in values.items()})

    def log_metric_series(self, values: Mapping[str, Mapping[int, float]]) -> None:
        """Metrics by step, as far as they are finite numbers, in one transaction."""
        now = int(1000 * time.time())
        made = [
            Metric(name, value, now, step)
            for name, course in values.items()
            for step, value in course.items()
            if math.isfinite(value)
        ]
        self._client.log_batch(self.id, metrics=made)

    def set_tags(self, values: Mapping[str, str]) -> None:
        self._client.log_batch(self.id, tags=[RunTag(name, value) for name, value in values.items()])

    def log_texts(self, files: Mapping[str, str]) -> None:
        """Store each text under its path among the run's artifacts."""
        for path, text in files.items():
            self._client.log_text(self.id, text, path)

    def log_artifacts(self, folder: Path, path: str) -> None:
        self._client.log_artifacts(self.id, str(folder), path)


class Registry:
    """Runs and model versions of one MLflow store."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _client(self) -> MlflowClient:
        uri = self._settings.mlflow_uri
        for name, value in _HTTP_LIMITS.items():
            os.environ.setdefault(name, value)
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        try:
            client.search_experiments(max_results=1)
        except MlflowException as error:
            raise RegistryUnavailable(
                f"MLflow at {uri} does not answer", "start it, or set RAYLOOP_TRACKING_URI"
            ) from error
        return client

    def check(self) -> None:
        """Raises RegistryUnavailable when MLflow does not answer."""
        _ = self._client

    @contextmanager
    def run(
        self, experiment: str, name: str, parent: str = "", *, key: str = "", resume: bool = False
    ) -> Iterator[Run]:
        """Open a run; it ends as FINISHED, or as FAILED when the body raises. ``again`` goes on with the newest one of this ``key``.

        Otherwise one of this key that is still open was left by a process that was killed, and ends as KILLED.
        """
        found = self._keyed(experiment, key) if resume else ""
        if key and not found:
            self._end_left(experiment, key)
        run = Run(self._client, found or self._created(experiment, name, parent, key))
        if found:
            self._client.update_run(found, status="RUNNING")
        try:
            yield run
        except BaseException:
            self._client.set_terminated(run.id, "FAILED")
            raise
        self._client.set_terminated(run.id, "FAILED" if run.failed else "FINISHED")

    def child_run_names(self, experiment: str, run: Run) -> set[str]:
        """Names of the runs that are nested in this one."""
        wanted = f"tags.`mlflow.parentRunId` = '{run.id}'"
        found = self._client.search_runs([self._experiment(experiment)], wanted, max_results=10_000)
        return {child.info.run_name for child in found}

    def register(self, model: str, run: Run, bundle: Path, tags: Mapping[str, str]) -> ModelVersion:
        """Store ``bundle`` with the run and register it as the model's next version."""
        run.log_artifacts(bundle, BUNDLE_PATH)
        if not self._has(model):
            self._client.create_registered_model(model)
        source = f"{self._client.get_run(run.id).info.artifact_uri}/{BUNDLE_PATH}"
        made = self._client.create_model_version(model, source, run_id=run.id, tags=dict(tags))
        return _version(made)

    def find_version(self, model: str, fingerprint: str) -> ModelVersion | None:
        """The version with this fingerprint, so that equal work is not registered twice."""
        for version in self.versions(model):
            if version.fingerprint == fingerprint:
                return version
        return None

    def versions(self, model: str) -> list[ModelVersion]:
        """All versions, oldest first."""
        found = self._client.search_model_versions(f"name = '{model}'", max_results=1000)
        return sorted((_version(v) for v in found), key=lambda v: int(v.version))

    def version(self, model: str, version: str) -> ModelVersion:
        try:
            return _version(self._client.get_model_version(model, version))
        except MlflowException as error:
            known = ", ".join(v.version for v in self.versions(model)) or "none"
            raise VersionNotFound(f"model {model!r} has no version {version!r}", f"registered are: {known}") from error

    def version_by_alias(self, model: str, alias: str) -> ModelVersion | None:
        try:
            return _version(self._client.get_model_version_by_alias(model, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise RegistryUnavailable(f"MLflow cannot tell the {alias} of {model!r}: {error.message}") from error

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        self._client.set_registered_model_alias(version.model, alias, version.version)

    def clear_alias(self, model: str, alias: str) -> None:
        """Take the alias away; absent is fine."""
        if self.version_by_alias(model, alias):
            self._client.delete_registered_model_alias(model, alias)

    def set_tag(self, version: ModelVersion, name: str, value: str) -> None:
        self._client.set_model_version_tag(version.model, version.version, name, value)

    def fetch(self, version: ModelVersion) -> Path:
        """Folder on this machine that holds the version's bundle."""
        return version.local_folder or Path(
            mlflow.artifacts.download_artifacts(version.bundle_uri, tracking_uri=self._settings.mlflow_uri)
        )

    def fetch_file(self, version: ModelVersion, name: str) -> Path:
        """Folder on this machine that holds one file of the version's bundle, without fetching the others."""
        if version.local_folder is not None:
            return version.local_folder
        uri = f"{version.bundle_uri}/{name}"
        return Path(mlflow.artifacts.download_artifacts(uri, tracking_uri=self._settings.mlflow_uri)).parent

    def model_names(self) -> list[str]:
        """Names of all registered models, in order."""
        return sorted(model.name for model in self._client.search_registered_models(max_results=1000))

    def delete_model(self, model: str) -> None:
        """Delete a registered model with all its versions; absent is fine."""
        if self._has(model):
            self._client.delete_registered_model(model)

    def _keyed(self, experiment: str, key: str) -> str:
        """The newest run of a key; empty when there is none."""
        found = self._client.search_runs([self._experiment(experiment)], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else ""

    def _end_left(self, experiment: str, key: str) -> None:
        open_ = f"tags.`{KEY_TAG}` = '{key}' and attributes.status = 'RUNNING'"
        for left in self._client.search_runs([self._experiment(experiment)], open_):
            self._client.set_terminated(left.info.run_id, "KILLED")

    def _created(self, experiment: str, name: str, parent: str, key: str) -> str:
        tags = {"mlflow.runName": name, "mlflow.parentRunId": parent, KEY_TAG: key}
        made = self._client.create_run(
            self._experiment(experiment), tags={n: value for n, value in tags.items() if value}
        )
        return str(made.info.run_id)

    def _has(self, model: str) -> bool:
        return bool(self._client.search_registered_models(f"name = '{model}'"))

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=f"{self._settings.mlflow_artifacts}/{name}"))


def _version(found: MlflowVersion) -> ModelVersion:
    return ModelVersion(
        model=found.name,
        version=str(found.version),
        run_id=found.run_id or "",
        bundle_uri=found.source or "",
        tags=dict(found.tags),
    )
