"""A cluster of hosts that Ray's launcher starts from a client, with the repository's file for machines of one's own."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tests.factories.until import until
from tests.hosts.host import ROOT, Host
from tests.hosts.ssh import start_sshd

PROGRAMS = {"curl": "curl", "rsync": "rsync", "ssh-keygen": "openssh-client"}
"""What the launcher and its client need, and the Debian package that has it."""
FILE = ROOT / "ray-cluster-hosts.yaml"
RUN_S = 900.0
ALL_RUN = "2 of 2 replicas run"
VARIABLES = "/root/.rayloop/cluster.env"
"""On the client: what the launcher hands to the nodes."""
UP_S = 240.0
NODES_S = 240.0
"""Seconds until the workers have joined: the head's autoscaler logs in to them one after the other."""
DASHBOARD_PORT, SERVE_PORT, MLFLOW_PORT = 8265, 8000, 5000
UP_VARIABLES = {"RAY_UP_enable_autoscaler_v2": "0"}
"""As ray-cluster-hosts.yaml says."""
AT_HOME = ("env", "--chdir=/root")
"""A host's processes start in the machine's folder of that name."""
_INSTALLS = ("command -v python3.11", "test -d ~/venv", "~/venv/bin/pip")
"""What replaces these commands here is a link: the hosts share this interpreter's packages, and reach no index."""


class Cluster:
    """A cluster of one head and some workers, and the client that starts it and works with it."""

    def __init__(self, client: Host, head: Host, workers: Sequence[Host]) -> None:
        self.client, self.head, self.workers = client, head, list(workers)
        self.address = f"http://{head.name}:{DASHBOARD_PORT}"
        for host in (head, *workers):
            start_sshd(host, [client])

    @property
    def nodes(self) -> list[Host]:
        return [self.head, *self.workers]

    def write_files(self, variables: Mapping[str, str]) -> None:
        """Write on the client what ray-cluster.yaml asks of its user: addresses, variables, a token."""
        config = hosts_config(self.head.address, [worker.address for worker in self.workers])
        self.client.write("/root/ray-cluster.yaml", yaml.safe_dump(config))
        self.client.write("/root/build/wheel/constraints.txt", "")
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in variables.items()]
        self.client.write(VARIABLES, "".join(lines))
        self.client.run("ray", "get-auth-token", "--generate")

    def launch(self) -> str:
        """Run ``ray up``, and wait until every node has joined. Returns its output."""
        command = (*AT_HOME, "ray", "up", "--yes", "ray-cluster.yaml")
        up = self.client.run(*command, env=UP_VARIABLES, timeout_s=UP_S, check=False)
        assert up.returncode == 0, up.stdout + up.stderr + self.node_logs(self.head)
        self.await_nodes(self.nodes)
        return up.stdout + up.stderr

    def boot(self, host: Host) -> None:
        """Boot a host that is down, as a machine does whose service manager starts sshd and ``rayloop node``."""
        host.boot()
        start_sshd(host, [self.client])
        # The launcher's autoscaler may start the node at the same time, and end this attempt.
        start = ("bash", "-ic", "python -m rayloop node")
        until(lambda: host.run(*start, timeout_s=UP_S, check=False).returncode == 0, f"{host.name}'s node", UP_S)

    def await_nodes(self, hosts: Sequence[Host]) -> None:
        """Wait until these hosts, and no others, are nodes of the cluster."""
        expected = sorted(host.address for host in hosts)
        until(lambda: sorted(node["node_ip"] for node in self.alive()) == expected, f"nodes {expected}", NODES_S)

    def alive(self) -> list[dict[str, Any]]:
        """Nodes that the head takes for alive."""
        try:
            nodes = self.ask("/api/v0/nodes?filter_keys=state&filter_predicates=%3D&filter_values=ALIVE")
        except (json.JSONDecodeError, KeyError):
            return []
        return list(nodes["data"]["result"]["result"])

    def await_replicas(self) -> None:
        """Wait until both replicas of the project run."""
        until(lambda: ALL_RUN in self.rayloop("status", check=False).stdout, "both replicas run", RUN_S)

    def running_applications(self) -> list[str]:
        """Applications that Serve's controller reports as running; none while it does not answer."""
        try:
            applications = self.ask("/api/serve/applications/")["applications"]
        except (json.JSONDecodeError, KeyError):
            return []
        return [name for name, application in applications.items() if application["status"] == "RUNNING"]

    def ask(self, path: str) -> Any:
        """Ask the head's dashboard, with the token."""
        answer = self.client.run(
            *("curl", "--silent", "--max-time", "10", "--header", "@-", f"{self.address}{path}"),
            input=self.header,
            check=False,
        )
        return json.loads(answer.stdout)

    @property
    def token(self) -> str:
        return self.client.path("/root/.ray/auth_token").read_text().strip()

    @property
    def header(self) -> str:
        return f"Authorization: Bearer {self.token}\n"

    def rayloop(
        self, *words: str, check: bool = True, timeout_s: float = 120, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """The command as a user types it on the client."""
        environment = {"RAYLOOP_ADDRESS": self.address, **variables}
        command = (*AT_HOME, "python", "-m", "rayloop", *words)
        return self.client.run(*command, env=environment, check=check, timeout_s=timeout_s)

    def python(self, code: str) -> str:
        """Run code on the head with the variables of its node. Returns what it prints."""
        return self.head.run("bash", "-ic", "python -", input=code).stdout

    def node_logs(self, host: Host) -> str:
        logs = "cat ~/.rayloop/*.log; tail -n 100 /tmp/ray/session_latest/logs/monitor*"
        return host.run("bash", "-c", logs, check=False).stdout


def hosts_config(head: str, workers: list[str]) -> dict[str, Any]:
    """ray-cluster-hosts.yaml with these addresses, and without what an index of packages is needed for."""
    config: dict[str, Any] = yaml.safe_load(FILE.read_text())
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"]["ssh_user"] = "root"
    kept = [command for command in config["setup_commands"] if not command.startswith(_INSTALLS)]
    config["setup_commands"] = [f"ln -sfn {sys.prefix} ~/venv", *kept]
    return config


def infer_url(host: Host) -> str:
    return f"http://{host.name}:{SERVE_PORT}/v2/models/visits/infer"


def request_body(**fields: str) -> str:
    """A request for one visit; without an ``id`` each call gets its own."""
    inputs = [
        {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["north"]},
        {"name": "at", "shape": [1], "datatype": "BYTES", "data": ["2024-01-28T18:00:00Z"]},
    ]
    return json.dumps({"inputs": inputs} | fields)


def predict(cluster: Cluster, host: Host, key: str, name: str) -> tuple[int, dict[str, Any]]:
    """Ask a host's door from the client. Returns the HTTP status and the answer."""
    return _ask(cluster, key, infer_url(host), name)


def predict_by_name(cluster: Cluster, hosts: Sequence[Host], key: str, name: str) -> tuple[int, dict[str, Any]]:
    """As ``predict``, by one name that stands for all of these hosts, as DNS may have it."""
    addresses = ",".join(host.address for host in hosts)
    url = infer_url(hosts[0]).replace(hosts[0].name, "models")
    return _ask(cluster, key, url, name, "--connect-timeout", "4", "--resolve", f"models:{SERVE_PORT}:{addresses}")


def _ask(cluster: Cluster, key: str, url: str, name: str, *options: str) -> tuple[int, dict[str, Any]]:
    command = ("curl", "--silent", "--max-time", "10", "--write-out", "\n%{http_code}", "--header", "@-", *options)
    command = (*command, url, "--data", request_body(id=name))
    answer = cluster.client.run(*command, input=f"Authorization: Bearer {key}\n", check=False).stdout
    text, _, status = answer.rpartition("\n")
    return int(status or 0), json.loads(text or "{}")
