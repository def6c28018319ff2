"""Settings: embedded defaults for one machine, ``RAYLOOP_*`` variables for a cluster."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from cluster.errors import SettingsError


class Settings(BaseSettings):
    """Where state lies and which ports are used. Each field is ``RAYLOOP_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="RAYLOOP_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".rayloop")
    tracking_uri: str = ""
    artifact_root: str = ""
    catalog_uri: str = ""
    warehouse: str = ""
    online_store: str = ""
    address: str = ""
    personal_key_file: str = ""
    access: bool = False
    access_store: str = ""
    access_rate: str = ""
    rate_store: str = ""
    jwks_url: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_algorithms: str = "RS256,ES256"
    jwt_models_claim: str = "models"
    jwt_scopes_claim: str = "scope"
    jwt_leeway_s: float = Field(default=30.0, ge=0.0, le=300.0)
    alertmanager: str = ""
    price_cpu_hour: float = Field(default=0.04, ge=0.0)
    price_gpu_hour: float = Field(default=2.0, ge=0.0)
    price_gib_hour: float = Field(default=0.005, ge=0.0)
    dashboard_port: int = Field(default=8265, ge=1, le=65535)
    serve_port: int = Field(default=8000, ge=1, le=65535)
    grpc_port: int = Field(default=9000, ge=1, le=65535)
    gcs_port: int = Field(default=6379, ge=1, le=65535)
    mlflow_port: int = Field(default=5000, ge=1, le=65535)
    haproxy_stats_port: int = Field(default=8404, ge=1, le=65535)
    haproxy_metrics_port: int = Field(default=9101, ge=1, le=65535)
    replica_ports_from: int = Field(default=30000, ge=1024, le=60000)
    cpus: int = Field(default_factory=lambda: max(4, os.cpu_count() or 1), ge=2)

    @property
    def scratch(self) -> Path:
        """This machine's folder for sockets and the like. Its name is short: a Unix socket's path has 107 bytes at most."""
        tag = uuid.uuid5(uuid.NAMESPACE_URL, str(self.home.absolute())).hex[:12]
        return Path(tempfile.gettempdir()) / f"rayloop-{tag}"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's tracking and registry store."""
        return self.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> str:
        return self.artifact_root or (self.home / "artifacts").as_uri()

    @property
    def checkpoints(self) -> str:
        """Where trainings that are under way keep their checkpoints; every node must reach it."""
        return f"{self.artifact_root}/checkpoints" if self.artifact_root else str(self.home / "checkpoints")

    @property
    def iceberg(self) -> dict[str, str]:
        """Keyword arguments of pyiceberg's ``load_catalog``."""
        return {
            "name": "rayloop",
            "type": "rest" if self.catalog_uri.startswith("http") else "sql",
            "uri": self.catalog_uri or f"sqlite:///{self.home / 'catalog.db'}",
            "warehouse": self.warehouse or (self.home / "warehouse").as_uri(),
        }

    @property
    def online_store_uri(self) -> str:
        return self.online_store or f"lmdb://{self.home / 'online'}"

    @property
    def access_uri(self) -> str:
        """SQLAlchemy URI of the table of API keys."""
        return self.access_store or f"sqlite:///{self.home / 'access.db'}"

    @property
    def dashboard(self) -> str:
        """Address of the dashboard, which is also that of the Jobs and Serve REST APIs."""
        return self.address or f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def mlflow_server(self) -> str:
        """Where MLflow's pages are for a person to look at."""
        return self.tracking_uri if self.tracking_uri.startswith("http") else f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.serve_port}"

    def environment(self) -> dict[str, str]:
        """The variables that reproduce these settings in another process of this machine's cluster.

        For another cluster they are those that somebody has set: its own settings hold for the rest. A default of the
        caller's, such as access that is off, would undo what is set there.
        """
        values = self.model_dump(exclude_unset=bool(self.address))
        return {f"RAYLOOP_{name.upper()}": str(value) for name, value in values.items() if value != ""}


def load_settings() -> Settings:
    """Read the settings from the environment. Raises SettingsError naming the variable at fault."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"RAYLOOP_{str(first['loc'][0]).upper()}"
        raise SettingsError(f"{variable}={first['input']!r}: {first['msg']}", "set it right or unset it") from error
