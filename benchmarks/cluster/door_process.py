"""The processes of a door with its real HAProxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cluster.load import wait_until
from benchmarks.cluster.replicas import FakeServe, Loop
from cluster.door.admin_socket import AdminSocket
from cluster.settings import Settings


class Door:
    """The processes of a door.

    Args:
        settings: Its settings; the dashboard's address is FakeServe's.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.door_folder
        self.admin = AdminSocket(self.folder / "admin.sock", self.folder / "models.map")
        self._log = (settings.home / "door.log").open("a")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | self.settings.environment()
        command = [sys.executable, "-m", "cluster.door"]
        return subprocess.Popen(command, env=environment, stderr=self._log, start_new_session=True)

    def start_again(self) -> None:
        """Another supervisor, as a service manager starts it."""
        self.process = self._start()

    @property
    def haproxy(self) -> int:
        """Process id of HAProxy; 0 when it does not answer."""
        running = self.admin.info()
        return running.pid if running else 0

    @property
    def leader(self) -> int:
        """Process id of the supervisor, which holds the lock; 0 when there is none."""
        inode = (self.folder / "supervisor.lock").stat().st_ino
        # Such as "1: FLOCK ADVISORY WRITE 1234 fe:00:5678 0 EOF"; an arrow marks one that waits.
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        holders = (int(line[4]) for line in locks if line[1] == "FLOCK" and line[5].endswith(f":{inode}"))
        return next(holders, 0)

    @property
    def supervisors(self) -> list[int]:
        """Process ids of the supervisor and of its standby."""
        with contextlib.suppress(psutil.Error):
            if leader := self.leader:
                children = psutil.Process(leader).children()
                return [leader, *(child.pid for child in children if "cluster.door" in child.cmdline())]
        return []

    def _is_supervisor(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            if "cluster.door" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                return process.environ().get("RAYLOOP_HOME") == str(self.settings.home)
        return False

    def taking(self) -> set[int]:
        """Ports of the replicas that are up."""
        return {target.port for target in self.admin.held().healthy}

    def close(self) -> None:
        """Kill every process of it."""
        # Also a standby that has just been started, or that is about to take the lock.
        while running := [process for process in psutil.process_iter() if self._is_supervisor(process)]:
            for process in running:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(running, timeout=5.0)
        if pid := self.haproxy:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def running_door(settings: Settings, **changes: Any) -> Iterator[tuple[Door, FakeServe, Loop]]:
    """A door, the Serve that it follows, and the loop for replicas and load."""
    loop = Loop()
    serve = loop.run(FakeServe().start())
    door = Door(settings.model_copy(update={"address": serve.address, **changes}))
    try:
        wait_until(lambda: door.haproxy, "HAProxy answers", 20.0)
        yield door, serve, loop
    finally:
        door.close()
        loop.close()
