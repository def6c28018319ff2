"""A host: namespaces for network, mounts, processes, name and shared memory, below one first process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.factories.until import until
from tests.hosts import clock
from tests.hosts.process import RUN_S, Process

ROOT = Path(__file__).parents[2]
BOOT_S = 20.0
READY_S = 60.0
"""Seconds that a server may take until it answers."""
# What ends with its parent ends with the thread that started it, and a fault's thread ends before the host does.
_spawner = ThreadPoolExecutor(1)
_HIDDEN = (Path("/root"), Path("/tmp"), Path("/srv"))
"""Each host has its own; the machine's are out of sight."""


class Host:
    """A host of a network. ``disk_mb`` bounds its disk (home, /tmp and /srv together), which survives reboots.

    With ``own_clock``, its programs read a wall clock that ``step_clock`` sets; clock.c has the limits.
    """

    def __init__(
        self, name: str, number: int, switch: int, folder: Path, disk_mb: int | None = None, own_clock: bool = False
    ) -> None:
        self.name, self.address = name, f"10.77.0.{number}"
        self._switch, self._folder = switch, folder / name
        self.disk_mb, self.own_clock = disk_mb, own_clock
        self._boot = {
            "NAME": name,
            "ADDRESS": self.address,
            "HARDWARE": f"02:00:0a:4d:00:{number:02x}",
            "GATEWAY": "10.77.0.1",
            "SWITCH": str(switch),
            "DISK": str(self._folder / "disk"),
            "NAMES": str(folder / "hosts"),
            "VISIBLE": "\n".join(_visible_paths()),
            "CLOCK": str(clock.build(folder)) if own_clock else "",
        }
        self._init: subprocess.Popen[bytes] | None = None
        self._first: psutil.Process | None = None
        self.processes: list[Process] = []
        self._started = 0
        (self._folder / "disk").mkdir(parents=True)
        if disk_mb:
            self._mount_disk(disk_mb)

    def _mount_disk(self, size_mb: int) -> None:
        self._mount("-t", "tmpfs", "-o", f"size={size_mb}m", "disk")

    def fill_disk(self) -> None:
        """Leave no room on the disk, until ``empty_disk``. It takes no memory."""
        df = self.run("df", "--output=used", "--block-size=1K", "/tmp").stdout.split()
        # Something may have been written meanwhile, and a disk cannot be smaller than what is on it.
        self._mount("-o", f"remount,size={int(df[-1]) + 64}k")

    def empty_disk(self) -> None:
        """Give the disk the room that it had."""
        self._mount("-o", f"remount,size={self.disk_mb}m")

    def _mount(self, *options: str) -> None:
        # In the switch's mount namespace: there a disk outlives the host and ends with the network.
        mount = ["mount", *options, str(self._folder / "disk")]
        subprocess.run(["nsenter", f"--mount=/proc/{self._switch}/ns/mnt", *mount], check=True)

    @property
    def up(self) -> bool:
        return self._init is not None and self._init.poll() is None

    def boot(self) -> None:
        assert not self.up, f"{self.name} is up"
        log = self._folder / "boot.log"
        with log.open("wb") as errors:
            self._init = _spawn(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("nsenter", f"--net=/proc/{self._switch}/ns/net", f"--mount=/proc/{self._switch}/ns/mnt"),
                    *("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--kill-child", "--fork"),
                    *("bash", str(Path(__file__).with_name("boot.sh"))),
                ],
                env=os.environ | self._boot,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self._init.stdout is not None
        with self._init.stdout as ready:
            pid = ready.readline()
        if not pid:
            self.kill()
            raise RuntimeError(f"{self.name} does not boot: {log.read_text()}")
        self._first = psutil.Process(int(pid))

    @property
    def pid(self) -> int:
        """The first process, as the machine sees it."""
        assert self.up, f"{self.name} is down"
        assert self._first is not None
        return int(self._first.pid)

    def kill(self) -> None:
        """Take the host down as a power cut does: the others get no FIN and no RST, because the cable goes first."""
        if self._init is None:
            return
        delete = ["nsenter", f"--net=/proc/{self._switch}/ns/net", "ip", "link", "delete", "dev", self.name]
        subprocess.run(delete, stderr=subprocess.DEVNULL)
        for process in self.processes:
            process.resume_entry()
        if self.up and self._first:
            # Not the unshare around it: that would be gone before the host's processes are.
            with suppress(psutil.NoSuchProcess):
                self._first.kill()
        else:
            self._init.kill()
        for process in self.processes:
            process.wait(BOOT_S)
        self._init.wait(BOOT_S)
        self._init, self._first, self.processes = None, None, []

    def freeze(self) -> None:
        """Stop every process; the kernel still accepts connections and acknowledges data, so that peers wait."""
        until(self._all_stopped, f"{self.name} stops", 10)

    def thaw(self) -> None:
        for pid in self.pids():
            _send(pid, signal.SIGCONT)
        for process in self.processes:
            process.resume_entry()

    def pids(self) -> list[int]:
        """Process ids in this host, as the machine sees them."""
        own = os.readlink(f"/proc/{self.pid}/ns/pid")
        return [pid for pid, namespace in _pid_namespaces() if namespace == own]

    def _all_stopped(self) -> bool:
        moving = [pid for pid in self.pids() if _state(pid) not in "TtZX"]
        for pid in moving:
            _send(pid, signal.SIGSTOP)
        return not moving

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock ``seconds`` ahead of the machine's, or behind it; the monotonic clock stays."""
        if self.own_clock:
            clock.write_offset(self.path(clock.OFFSET), seconds)

    def run(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        timeout_s: float = RUN_S,
        check: bool = True,
        input: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. With ``check``, one that fails fails the test with its output."""
        result = subprocess.run(
            self._enter(*command, env=env), capture_output=True, text=True, timeout=timeout_s, input=input
        )
        assert not check or result.returncode == 0, f"{self.name}: {' '.join(command)}: {result.stdout}{result.stderr}"
        return result

    def start(self, *command: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a process that ends with the host at the latest."""
        self._started += 1
        log = self._folder / f"{self._started}-{Path(command[0]).name}.log"
        with log.open("wb") as output:
            entry = _spawn(
                self._enter(*command, env=env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        process = Process(entry, log)
        self.processes.append(process)
        return process

    def _enter(self, *command: str, env: Mapping[str, str] | None) -> list[str]:
        variables = [f"{name}={value}" for name, value in (self.environment() | dict(env or {})).items()]
        return [
            *("nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/root"),
            *("setpriv", "--pdeathsig", "KILL", "env", "-i", *variables, *command),
        ]

    def environment(self) -> dict[str, str]:
        """Variables of a command in this host: this interpreter's programs, and the project's modules."""
        return {
            "HOME": "/root",
            "USER": "root",
            "LANG": "C.UTF-8",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }

    def path(self, path: str) -> Path:
        """A path of the running host, for this process: to read, to write, to copy from and to."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def write(self, path: str, content: str | bytes, mode: int = 0o600) -> None:
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)

    def wait_for_port(self, port: int, process: Process) -> None:
        """Wait until a port of this host accepts a connection; fail with the process's output if it ends."""
        self.wait_for("bash", "-c", f"exec 3<>/dev/tcp/{self.address}/{port}", process=process)

    def wait_for(self, *probe: str, process: Process) -> None:
        """Wait until a command succeeds; fail with the process's output if it ends."""

        def succeeds() -> bool:
            assert process.running, f"{self.name}: {process.output}"
            return self.run(*probe, check=False).returncode == 0

        until(succeeds, f"{self.name}: {' '.join(probe)}", READY_S)


def _spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    return _spawner.submit(subprocess.Popen, command, start_new_session=True, **options).result()


def _visible_paths() -> Iterator[str]:
    """Paths of code and programs that a host's own folders would hide."""
    programs = {Path(folder) for folder in os.environ["PATH"].split(":")}
    for path in sorted({ROOT, Path(sys.prefix), Path(sys.base_prefix), *programs}):
        if path.is_dir() and any(path.is_relative_to(hidden) for hidden in _HIDDEN):
            yield str(path)


def _pid_namespaces() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                yield int(folder.name), os.readlink(folder / "ns/pid")
            except OSError:
                """It ended, or is none that we may look at."""


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"
