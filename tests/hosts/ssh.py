"""An ssh server on a host, and logins by key from other hosts."""

from __future__ import annotations

from collections.abc import Sequence

from tests.hosts.host import Host
from tests.hosts.process import Process

_CONFIG = """
Port 22
HostKey /srv/ssh/host_key
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
# A burst of logins, as ray up makes, is none to turn away.
MaxStartups 100
SetEnv {environment}
"""


def start_sshd(server: Host, clients: Sequence[Host] = ()) -> Process:
    """Start sshd; root of ``clients`` may log in, knows the host's key, and has this process's variables there."""
    server.run("install", "-d", "-m", "0700", "/run/sshd", "/srv/ssh", "/root/.ssh")
    _create_key(server, "/srv/ssh/host_key")
    variables = " ".join(f'{name}="{value}"' for name, value in server.environment().items())
    server.write("/srv/ssh/config", _CONFIG.format(environment=variables))
    host_key = server.path("/srv/ssh/host_key.pub").read_text().split()[:2]
    keys = []
    for client in clients:
        _create_key(client, "/root/.ssh/id_ed25519")
        keys.append(client.path("/root/.ssh/id_ed25519.pub").read_text())
        known = f"{server.name},{server.address} {' '.join(host_key)}\n"
        with client.path("/root/.ssh/known_hosts").open("a") as known_hosts:
            known_hosts.write(known)
    server.write("/root/.ssh/authorized_keys", "".join(keys))
    process = server.start("/usr/sbin/sshd", "-D", "-e", "-f", "/srv/ssh/config")
    server.wait_for_port(22, process)
    return process


def _create_key(host: Host, path: str) -> None:
    if not host.path(path).exists():
        host.path(path).parent.mkdir(mode=0o700, exist_ok=True)
        host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
