"""Wait in many ways on a host whose clock steps meanwhile, and print how many seconds each took, as JSON.

``python -m tests.hosts.clock_waits WAIT OFFSET``: each wait is for WAIT seconds, or until the time in WAIT seconds.
After ``STEP_AFTER_S`` the clock is set OFFSET seconds ahead. What has not ended after ``LIMIT_S`` is null.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.hosts.clock import OFFSET, write_offset

STEP_AFTER_S, LIMIT_S = 0.3, 5.0
_TIMER_ABSTIME = 1
_FUTEX, _FUTEX_WAIT_BITSET, _FUTEX_CLOCK_REALTIME, _ANY = 202, 9, 256, 0xFFFFFFFF
_TIMED_OUT = 110
_libc = ctypes.CDLL(None, use_errno=True)


def _until(wait_s: float, clock: int) -> ctypes.Array[ctypes.c_long]:
    """A timespec."""
    return (ctypes.c_long * 2)(*divmod(time.clock_gettime_ns(clock) + int(wait_s * 1e9), 10**9))


def _object() -> ctypes.Array[ctypes.c_long]:
    """A condition, mutex, lock or semaphore as its static initializer leaves it, for Linux on 64 bits."""
    return (ctypes.c_long * 8)()


def _held(hold: str) -> ctypes.Array[ctypes.c_long]:
    """A lock that this function has acquired. A semaphore is 0 from the beginning."""
    held = _object()
    if hold:
        # By another thread: who holds a lock for writing does not wait for it.
        thread = threading.Thread(target=_libc[hold], args=(held,))
        thread.start()
        thread.join()
    return held


def _times_out(name: str, *arguments: object) -> bool:
    result = _libc[name](*arguments)
    return bool((ctypes.get_errno() if result == -1 else result) == _TIMED_OUT)


def _lock(wait_s: float, clock: int, name: str, hold: str) -> None:
    clocks = [clock] if "clock" in name else []
    assert _times_out(name, _held(hold), *clocks, _until(wait_s, clock))


def _cond_timedwait(wait_s: float, clock: int) -> None:
    attributes, condition, mutex, deadline = _object(), _object(), _object(), _until(wait_s, clock)
    _libc.pthread_condattr_init(attributes)
    _libc.pthread_condattr_setclock(attributes, clock)
    _libc.pthread_cond_init(condition, attributes)
    _libc.pthread_mutex_lock(mutex)
    while not _times_out("pthread_cond_timedwait", condition, mutex, deadline):
        """Woken early."""


def _cond_clockwait(wait_s: float, clock: int) -> None:
    condition, mutex, deadline = _object(), _object(), _until(wait_s, clock)
    _libc.pthread_mutex_lock(mutex)
    while not _times_out("pthread_cond_clockwait", condition, mutex, clock, deadline):
        """Woken early."""


def _clock_nanosleep(wait_s: float, clock: int) -> None:
    assert not _libc.clock_nanosleep(clock, _TIMER_ABSTIME, _until(wait_s, clock), None)


def _futex(wait_s: float, clock: int) -> None:
    operation = _FUTEX_WAIT_BITSET | (_FUTEX_CLOCK_REALTIME if clock == time.CLOCK_REALTIME else 0)
    word, deadline = (ctypes.c_int * 1)(), _until(wait_s, clock)
    assert _times_out("syscall", _FUTEX, word, operation, 0, deadline, None, ctypes.c_uint(_ANY))


def _timerfd(wait_s: float, clock: int) -> None:
    timer = _libc.timerfd_create(clock, 0)
    setting = (ctypes.c_long * 4)(0, 0, *_until(wait_s, clock))
    assert not _libc.timerfd_settime(timer, _TIMER_ABSTIME, setting, None)
    assert len(os.read(timer, 8)) == 8


_LOCKS = {
    "sem_timedwait": "",
    "sem_clockwait": "",
    "pthread_mutex_timedlock": "pthread_mutex_lock",
    "pthread_mutex_clocklock": "pthread_mutex_lock",
    "pthread_rwlock_timedrdlock": "pthread_rwlock_wrlock",
    "pthread_rwlock_timedwrlock": "pthread_rwlock_wrlock",
    "pthread_rwlock_clockrdlock": "pthread_rwlock_wrlock",
    "pthread_rwlock_clockwrlock": "pthread_rwlock_wrlock",
}
"""Functions that wait for a lock, and the one that holds it. Without "clock" in it, the wall clock is theirs."""
UNTIL: dict[str, Callable[[float, int], None]] = {
    **{name: partial(_lock, name=name, hold=hold) for name, hold in _LOCKS.items()},
    "pthread_cond_timedwait": _cond_timedwait,
    "pthread_cond_clockwait": _cond_clockwait,
    "clock_nanosleep": _clock_nanosleep,
    "syscall(futex)": _futex,
    "timerfd_settime": _timerfd,
}
"""Ways to wait until a time of a clock."""
CLOCKS = {"wall": time.CLOCK_REALTIME, "monotonic": time.CLOCK_MONOTONIC}


def _condition(wait_s: float) -> None:
    condition = threading.Condition()
    with condition:
        condition.wait(wait_s)


def _queue(wait_s: float) -> None:
    with suppress(queue.Empty):
        queue.Queue[None]().get(timeout=wait_s)


def _python_lock(wait_s: float) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=wait_s)


def _subprocess(wait_s: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        _sleep("infinity", wait_s)


def _sleep(seconds: str, timeout_s: float | None = None) -> None:
    # It ends with this program, and does not hold its output open.
    command = ["setpriv", "--pdeathsig", "KILL", "sleep", seconds]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=timeout_s)


async def _asyncio_timeout(wait_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await asyncio.Event().wait()


FOR: dict[str, Callable[[float], object]] = {
    "time.sleep": time.sleep,
    "threading.Event": lambda wait_s: threading.Event().wait(wait_s),
    "threading.Condition": _condition,
    "threading.Lock": _python_lock,
    "queue": _queue,
    "select": lambda wait_s: select.select([], [], [], wait_s),
    "poll": lambda wait_s: select.poll().poll(wait_s * 1e3),
    "asyncio.sleep": lambda wait_s: asyncio.run(asyncio.sleep(wait_s)),
    "asyncio.timeout": lambda wait_s: asyncio.run(_asyncio_timeout(wait_s)),
    "subprocess.wait": _subprocess,
    "sleep(1)": lambda wait_s: _sleep(str(wait_s)),
}
"""Ways to wait for a duration."""


def _waits() -> dict[str, Callable[[float], object]]:
    until = {
        f"{name} {kind}": partial(wait, clock=clock)
        for name, wait in UNTIL.items()
        for kind, clock in CLOCKS.items()
        if kind == "wall" or "clock" in name or name not in _LOCKS
    }
    return FOR | until


def measure(wait_s: float, offset_s: float) -> dict[str, float | None]:
    """Run all waits side by side."""
    waits = _waits()
    took: dict[str, float | None] = dict.fromkeys(waits)

    def run(name: str) -> None:
        began = time.monotonic()
        waits[name](wait_s)
        took[name] = time.monotonic() - began

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in waits]
    end = time.monotonic() + LIMIT_S
    for thread in threads:
        thread.start()
    time.sleep(STEP_AFTER_S)
    write_offset(Path(OFFSET), offset_s)
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    return took


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]), float(sys.argv[2]))), flush=True)
    # Not after the threads that still wait.
    os._exit(0)
