"""Servers as processes: started with a mark that their children inherit, and ended with all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

_MARK = "RAYLOOP_BENCHMARK_SERVER"
_STOP_S = 10.0
_KILL_S = 5.0
_POLL_S = 0.1
_ERROR_CHARS = 600


class ServerFailed(Exception):
    """A server that did not start or does not respond correctly; the message says why."""


@contextmanager
def server(
    command: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path,
    log: Path,
    answers: Callable[[], bool],
    limit_s: float,
) -> Iterator[None]:
    """A server that ``answers``, until the block ends. Raises ServerFailed with the end of its log.

    It gets SIGTERM; processes that remain ``_STOP_S`` seconds later are killed.
    """
    mark = uuid.uuid4().hex
    with log.open("w") as out:
        process = subprocess.Popen(
            list(command), env={**environment, _MARK: mark}, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, answers, limit_s, log)
        yield
    finally:
        _end(process, mark)


def _wait(process: subprocess.Popen[bytes], answers: Callable[[], bool], limit_s: float, log: Path) -> None:
    deadline = time.monotonic() + limit_s
    while not answers():
        if process.poll() is not None:
            raise ServerFailed(f"it ended with code {process.returncode}: {_tail(log)}")
        if time.monotonic() > deadline:
            raise ServerFailed(f"no answer within {limit_s:.0f} s: {_tail(log)}")
        time.sleep(_POLL_S)


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    # Children that outlive their parent are found by the mark, those that write over their environment by their parent.
    competitors = _marked(mark)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    left = {p.pid: p for p in [*competitors, *_marked(mark)] if p.is_running()}
    for one in left.values():
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(list(left.values()), timeout=_KILL_S)


def _marked(mark: str) -> list[psutil.Process]:
    processes = list(psutil.process_iter(["ppid"]))
    ours = {p.pid for p in processes if _carries(p, mark)}
    while children := {p.pid for p in processes if p.info["ppid"] in ours} - ours:
        ours |= children
    return [p for p in processes if p.pid in ours and p.pid != os.getpid()]


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(_MARK) == mark)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def _tail(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split())[-_ERROR_CHARS:]
