"""A script that runs as a job of a cluster of hosts, and prints its events as lines of JSON."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from tests.factories.until import until
from tests.hosts.launcher import RUN_S, Cluster


class Job:
    """A job that the client has submitted; the cluster's head has its log."""

    def __init__(self, cluster: Cluster, script: Path, **variables: object) -> None:
        self._cluster, self._id = cluster, f"{script.stem}-{uuid.uuid4().hex}"
        folder = f"/root/{script.stem}"
        cluster.client.write(f"{folder}/{script.name}", script.read_text())
        settings = json.dumps({"env_vars": {name: str(value) for name, value in variables.items()}})
        submit = ("ray", "job", "submit", "--no-wait", "--submission-id", self._id, "--working-dir", folder)
        environment = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "token"}
        command = (*submit, "--runtime-env-json", settings, "--", "python", script.name)
        cluster.client.run(*command, env=environment)

    def _ask(self, path: str = "") -> dict[str, Any]:
        try:
            return dict(self._cluster.ask(f"/api/jobs/{self._id}{path}"))
        except json.JSONDecodeError:
            return {}

    @property
    def _log(self) -> str:
        return str(self._ask("/logs").get("logs", ""))

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.splitlines() if line.startswith("{") and line.endswith("}")]

    def result(self) -> dict[str, Any]:
        """The last event, once the job has ended."""
        ended = ("SUCCEEDED", "FAILED", "STOPPED")
        status = until(lambda: (now := self._ask().get("status")) in ended and now, "the job ends", RUN_S)
        assert status == "SUCCEEDED", self._log[-6000:]
        return self.events[-1]
