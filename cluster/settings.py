"""Settings: embedded defaults for one machine, ``RAYLOOP_*`` variables for a cluster."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from cluster.env import s3_endpoint, s3_region
from cluster.errors import SettingsError

_PASSWORD = re.compile(r"(?<=:)[^:/?#]+(?=@[^/@]*(?:[/?#]|$))|(?<=password=)[^&]+")


PORTS_PER_PROTOCOL = 500
"""Ports that replicas of a host may have for HTTP, and as many for gRPC."""


class Settings(BaseSettings):
    """Where state is kept and which ports are used. Each field is ``RAYLOOP_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="RAYLOOP_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".rayloop")
    """Folder for all state that has no address below; default: ``~/.rayloop``."""
    tracking_uri: str = ""
    """MLflow's tracking and registry store; default: SQLite in ``home``."""
    artifact_root: str = ""
    """Where MLflow keeps artifacts and training runs keep checkpoints; default: ``home``."""
    state_root: str = ""
    """Where monitors keep their state and projects their reports. Two clusters with the same artifacts need one each.
    Default: ``state`` beside the artifacts, or ``home``."""
    catalog_uri: str = ""
    """Iceberg catalog: a REST catalog (``http…``) or a database as a SQLAlchemy URI; default: SQLite in ``home``."""
    warehouse: str = ""
    """Where Iceberg keeps the files of tables; default: ``home``."""
    online_store: str = ""
    """Online store, ``lmdb://folder`` or ``redis://host:port/number``; default: LMDB in ``home``."""
    address: str = ""
    """Dashboard address of the cluster that commands work with; default: the cluster of this machine."""
    personal_key_file: str = ""
    """File with the key that hashes personal columns; required for projects that have such columns."""
    access: bool = False
    """Whether requests to models require an API key or a token."""
    access_store: str = ""
    """Database of API keys, as a SQLAlchemy URI; default: SQLite in ``home``."""
    access_rate: str = ""
    """Rate limit for keys without their own limit, such as ``100/minute``; default: no limit."""
    rate_store: str = ""
    """Redis that counts requests for all replicas, ``redis://``; default: each replica counts its own requests."""
    jwks_url: str = ""
    """JSON Web Key Set of the issuer whose tokens are accepted; default: no tokens."""
    jwt_issuer: str = ""
    """Required ``iss`` claim of a token; needed with ``jwks_url``."""
    jwt_audience: str = ""
    """Required ``aud`` claim of a token; needed with ``jwks_url``."""
    jwt_algorithms: str = "RS256,ES256"
    """Accepted signature algorithms, separated by commas."""
    jwt_models_claim: str = "models"
    """Claim that lists the models that a token gives access to."""
    jwt_scopes_claim: str = "scope"
    """Claim that lists the scopes of a token."""
    jwt_leeway_s: float = Field(default=30.0, ge=0.0, le=300.0)
    """Tolerated clock difference when a token's times are checked, in seconds."""
    alertmanager: str = ""
    """Address ``host:port`` of the Alertmanager, for the generated Prometheus configuration; default: none."""
    price_cpu_hour: float = Field(default=0.04, ge=0.0)
    """Price of a CPU for an hour, in any currency; used to compute a model's cost."""
    price_gpu_hour: float = Field(default=2.0, ge=0.0)
    """Price of a GPU for an hour."""
    price_gib_hour: float = Field(default=0.005, ge=0.0)
    """Price of a GiB of memory for an hour."""
    dashboard_port: int = Field(default=8265, ge=1, le=65535)
    """Port of Ray's dashboard and of its Jobs and Serve APIs."""
    serve_host: str = "127.0.0.1"
    """Address at which models are served. The default admits callers on this machine only; ``0.0.0.0`` admits others,
    and every node with a replica answers, or with a door every node."""
    serve_port: int = Field(default=8000, ge=1, le=65535)
    """HTTP port of served models."""
    grpc_port: int = Field(default=9000, ge=1, le=65535)
    """gRPC port of served models."""
    gcs_port: int = Field(default=6379, ge=1, le=65535)
    """Port through which drivers and workers join the cluster."""
    mlflow_port: int = Field(default=5000, ge=1, le=65535)
    """Port of MLflow's web pages."""
    haproxy_stats_port: int = Field(default=8404, ge=1, le=65535)
    """Port of HAProxy's statistics."""
    haproxy_metrics_port: int = Field(default=9101, ge=1, le=65535)
    """Port of HAProxy's metrics for Prometheus."""
    door: bool = False
    """Whether rayloop's own door is in front of the replicas; ``rayloop up`` starts it. Default: Serve's HAProxy."""
    door_certificate: str = ""
    """PEM file with the certificate chain and the key of the door; default: no TLS. New content is used within a
    second."""
    door_peer_certificate: str = ""
    """PEM file with the certificate chain and the key with which the doors of a cluster's hosts identify themselves.
    With it, replicas listen on the loopback address, and doors encrypt what they send each other; default: they send
    to replicas of other hosts without encryption."""
    door_peer_authority: str = ""
    """PEM file with the certificate of the authority that signs those of doors, and of nothing else; required with
    ``door_peer_certificate``."""
    door_peer_ports_from: int = Field(default=31500, ge=1024, le=64000)
    """First of 1,000 ports at which the door accepts what the doors of other hosts send to this host's replicas."""
    door_models: int = Field(default=32, ge=1, le=1000)
    """Models that the door can serve at once."""
    door_replicas: int = Field(default=32, ge=1, le=1000)
    """Replicas of a model, those that drain included, that the door can serve at once."""
    door_connections: int = Field(default=4096, ge=16)
    """Connections of callers that the door accepts at once; each takes at most about 100 KiB."""
    replica_ports_from: int = Field(default=30000, ge=1024, le=60000)
    """First of 1,002 ports for replicas and fallback proxies."""
    cpus: int = Field(default_factory=lambda: max(4, os.cpu_count() or 1), ge=2)
    """CPUs of the local cluster as Ray counts them; default: those of this machine, at least 4."""

    @property
    def scratch(self) -> Path:
        """Folder of this machine for sockets. Its name is short: the path of a Unix socket has at most 107 bytes."""
        tag = uuid.uuid5(uuid.NAMESPACE_URL, str(self.home.absolute())).hex[:12]
        return Path(tempfile.gettempdir()) / f"rayloop-{tag}"

    @property
    def replica_grpc_ports_from(self) -> int:
        """First port of replicas for gRPC."""
        return self.replica_ports_from + PORTS_PER_PROTOCOL

    @property
    def fallback_ports(self) -> tuple[int, int]:
        """Ports of Serve's fallback proxies, HTTP and gRPC; they follow those of replicas."""
        first = self.replica_grpc_ports_from + PORTS_PER_PROTOCOL
        return first, first + 1

    @property
    def proxy_ports(self) -> tuple[int, int]:
        """Ports of Serve's own proxy, HTTP and gRPC: behind a door, callers do not use it."""
        if self.door:
            return self.fallback_ports
        return self.serve_port, self.grpc_port

    @property
    def replica_host(self) -> str:
        """Address that replicas listen on."""
        return "127.0.0.1" if self.door and self.door_peer_certificate else self.serve_host

    @property
    def door_folder(self) -> Path:
        """Folder of this machine for the door's sockets and configuration, which outlive a cluster."""
        return self.scratch.with_name(f"{self.scratch.name}-door")

    @property
    def mlflow_uri(self) -> str:
        """MLflow's tracking and registry store."""
        return self.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> str:
        """Where MLflow keeps artifacts."""
        return self.artifact_root or (self.home / "artifacts").as_uri()

    @property
    def checkpoints(self) -> str:
        """Where training runs in progress keep checkpoints; every node must be able to reach it."""
        return f"{self.artifact_root}/checkpoints" if self.artifact_root else str(self.home / "checkpoints")

    @property
    def state(self) -> str:
        """Where monitors keep their state and projects their reports; an actor may restart on another machine."""
        beside = f"{self.artifact_root}/state" if self.artifact_root else str(self.home.absolute())
        return self.state_root or beside

    @property
    def iceberg(self) -> dict[str, str]:
        """Keyword arguments of pyiceberg's ``load_catalog``."""
        # pyiceberg does not read the variables of AWS's clients: it would ask AWS for the region of each bucket.
        s3 = {"s3.region": s3_region(), "s3.endpoint": s3_endpoint()}
        return {
            "name": "rayloop",
            "type": "rest" if self.catalog_uri.startswith("http") else "sql",
            "uri": self.catalog_uri or f"sqlite:///{self.home / 'catalog.db'}",
            "warehouse": self.warehouse or (self.home / "warehouse").as_uri(),
        } | {name: value for name, value in s3.items() if value}

    @property
    def online_store_uri(self) -> str:
        """Address of the online store."""
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
        """Address of MLflow's web pages."""
        return self.tracking_uri if self.tracking_uri.startswith("http") else f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def endpoint(self) -> str:
        """HTTP address of the models served on this machine."""
        return f"http://127.0.0.1:{self.serve_port}"

    def environment(self) -> dict[str, str]:
        """Return the environment variables that reproduce these settings in a process of the cluster.

        With ``address``, only the fields that are set: the other cluster has its own settings, and a default of this
        process, such as access control that is off, would override them. Those with a password are left out too: Ray
        logs and shows the variables of jobs and applications, and the nodes have had theirs since they started.
        """
        values = self.model_dump(exclude_unset=bool(self.address))
        texts = {f"RAYLOOP_{name.upper()}": str(value) for name, value in values.items() if value != ""}
        return {name: text for name, text in texts.items() if not self.address or hide_password(text) == text}


def hide_password(uri: str) -> str:
    """Return an address as it may be shown: with ``***`` in place of a password."""
    return _PASSWORD.sub("***", uri)


def load_settings() -> Settings:
    """Read the settings from the environment. Raises SettingsError, which names the variable at fault."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"RAYLOOP_{str(first['loc'][0]).upper()}"
        raise SettingsError("settings.invalid", variable=variable, value=first["input"], reason=first["msg"]) from error
