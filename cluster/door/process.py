"""A process that the door's supervisor watches."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress


class WatchedProcess:
    """A process, its own child or not, with a descriptor that becomes readable at its end.

    Args:
        pid: Its process id.
        child: Its handle, if this process has started it.
    """

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid, self._child = pid, child
        self.fd = os.pidfd_open(pid)

    def alive(self) -> bool:
        """Return whether it runs."""
        if self._child is not None:
            return self._child.poll() is None
        return not select.select([self.fd], [], [], 0)[0]

    def end(self, number: signal.Signals, within_s: float) -> None:
        """Send a signal, and SIGKILL if it takes longer."""
        for each, limit in ((number, within_s), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.fd, each)
            if select.select([self.fd], [], [], limit)[0]:
                break
        if self._child is not None:
            self._child.wait()
