"""Hosts on a bridge, and what breaks between them.

The bridge is in a network namespace of its own, so that no name and no address of one run meets another's or the
machine's. Nothing of it outlives the run: with the process that made it, the kernel ends bridge and hosts.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.hosts.host import Host
from tests.hosts.process import Process

PREFIX = "rayloop-hosts-"
PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
"""What hosts need, and the Debian package that has it."""
_FIRST = 11
_SWITCH = """
set -e
# A host needs these too.
unshare --mount --pid --uts --ipc --fork mount -t proc proc /proc
ip link set lo up
ip link add hosts type bridge
ip address add 10.77.0.1/24 dev hosts
ip link set hosts up
# A host that asks for an address outside gets an answer at once, not a timeout.
echo 1 >/proc/sys/net/ipv4/ip_forward
ip route add unreachable default
nft -f - <<'END'
table bridge faults {
    set cut { type ipv4_addr . ipv4_addr; }
    chain forward { type filter hook forward priority 0; ip saddr . ip daddr @cut drop; }
}
END
echo ready
exec sleep infinity >/dev/null
"""


class HostsUnavailable(Exception):
    """This machine does not let us make hosts."""


def require(programs: Mapping[str, str]) -> None:
    """Check that programs are installed; the value is the Debian package that has it.

    Raises:
        HostsUnavailable: Some are not.
    """
    if missing := [f"{name} ({package})" for name, package in programs.items() if not shutil.which(name)]:
        raise HostsUnavailable(f"hosts need {', '.join(missing)}")


class Network:
    """A bridge and its hosts; everything ends with the context."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self._cleanup = ExitStack()

    def __enter__(self) -> Network:
        require(PROGRAMS)
        remove_leftovers()
        with ExitStack() as cleanup:
            self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            cleanup.callback(_remove, self.folder)
            # Others remove the folder of a run that ended without doing so: its lock is free then.
            fcntl.flock(cleanup.enter_context((self.folder / "lock").open("w")), fcntl.LOCK_EX)
            self._start_switch(cleanup)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _start_switch(self, cleanup: ExitStack) -> None:
        self._switch = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--net", "--mount", "sh", "-c", _SWITCH),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        cleanup.callback(self._switch.wait)
        cleanup.callback(self._switch.kill)
        assert self._switch.stdout is not None
        with self._switch.stdout as output:
            answer = output.readline().decode().strip()
        if answer != "ready":
            raise HostsUnavailable(f"namespaces with a bridge and nftables are not allowed here: {answer}")

    def add(self, name: str, disk_mb: int | None = None, own_clock: bool = False) -> Host:
        """Boot a new host. Its name is that of its interface too, hence at most 15 characters."""
        host = Host(name, _FIRST + len(self.hosts), self._switch.pid, self.folder, disk_mb, own_clock)
        self._cleanup.callback(host.kill)
        self.hosts[name] = host
        names = [f"{other.address} {other.name}\n" for other in self.hosts.values()]
        # In place: it is mounted in every host.
        (self.folder / "hosts").write_text("".join(["127.0.0.1 localhost\n", *names]))
        host.boot()
        return host

    def processes(self) -> list[Process]:
        """Processes that were started in running hosts."""
        return [process for host in self.hosts.values() for process in host.processes]

    def cut(self, sources: Iterable[Host], targets: Iterable[Host]) -> None:
        """Drop what ``sources`` send to ``targets``; the other direction stays."""
        self._nft(f"add element bridge faults cut {{ {_pairs(sources, targets)} }}")

    def partition(self, left: Iterable[Host], right: Iterable[Host]) -> None:
        """Drop what passes between the two sides."""
        left, right = list(left), list(right)
        self.cut(left, right)
        self.cut(right, left)

    def reconnect(self, left: Iterable[Host], right: Iterable[Host]) -> None:
        """End the partition between two sides; others stay."""
        left, right = list(left), list(right)
        for pairs in (_pairs(left, right), _pairs(right, left)):
            self._nft(f"delete element bridge faults cut {{ {pairs} }}")

    def heal(self) -> None:
        """End every partition."""
        self._nft("flush set bridge faults cut")

    def restore(self) -> None:
        """End every fault: heal, let frozen hosts go on, boot dead ones."""
        self.heal()
        for host in self.hosts.values():
            if host.up:
                host.thaw()
                host.step_clock(0)
            else:
                host.kill()
                host.boot()

    def _nft(self, command: str) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{self._switch.pid}/ns/net", "nft", command], check=True)


def _pairs(sources: Iterable[Host], targets: Iterable[Host]) -> str:
    targets = list(targets)
    return ", ".join(f"{source.address} . {target.address}" for source in sources for target in targets)


def remove_leftovers() -> list[Path]:
    """Remove and return the folders of runs that were killed. The kernel has ended their hosts."""
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with (folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
        except OSError:
            continue
        removed.append(folder)
    return removed


def _remove(folder: Path) -> None:
    # What a host sees below its folder is the machine's own code: never follow a mount.
    assert str(folder) not in Path("/proc/self/mountinfo").read_text(), f"{folder} has mounts"
    shutil.rmtree(folder)
