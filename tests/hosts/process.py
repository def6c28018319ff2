"""A process in a host, started from outside it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil

from tests.factories.until import until

RUN_S = 60.0
"""Seconds that a command may take."""


class Process:
    """A process in a host; its output goes to a file outside it."""

    def __init__(self, entry: subprocess.Popen[bytes], log: Path) -> None:
        self.entry, self._log = entry, log

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.entry.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process itself, not the nsenter that waits for it outside."""
        child = until(psutil.Process(self.entry.pid).children, "the process in the host", 5)[0]
        child.send_signal(number)
        if number == signal.SIGCONT:
            self.resume_entry()

    def resume_entry(self) -> None:
        """Wake nsenter, which stops itself when its child is stopped, and could not collect it then."""
        if self.running:
            self.entry.send_signal(signal.SIGCONT)

    def wait(self, timeout_s: float = RUN_S) -> int:
        def ended() -> bool:
            self.resume_entry()
            return not self.running

        until(ended, "the process ends", timeout_s)
        return self.entry.returncode

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.running:
            self.send_signal(number)
            self.wait()
