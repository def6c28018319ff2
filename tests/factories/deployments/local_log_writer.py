"""A real log writer on an event loop of this process: only Ray between it and its caller is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.names import log_writer_actor
from cluster.settings import Settings
from deployments.telemetry import log_writer
from deployments.telemetry.log_writer import LogWriter
from rayloop.labeling import annotation_store

LIMIT_S = 60.0


class WriterHandle:
    """Calls the log writer's methods as Ray's handle calls those of its actor; a result is a future."""

    def __init__(self, model: str, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writer: Any = LogWriter.__new__(LogWriter)
        self._call(self._writer.__init__(model, settings)).result(LIMIT_S)

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *arguments: self._call(getattr(self._writer, name)(*arguments)))

    def _call(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


@contextmanager
def local_log_writer(model: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriterHandle]:
    """The log writer of a model, where rayloop.labeling finds it."""
    monkeypatch.setattr(log_writer, "COMMIT_EVERY_S", 0.01)
    monkeypatch.setattr(log_writer, "session_name", lambda: "session")
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        handle = WriterHandle(model, settings, loop)
        monkeypatch.setattr(annotation_store, "find_actor", {log_writer_actor(model): handle}.get)
        monkeypatch.setattr(annotation_store, "get_result", lambda future, limit_s: future.result(limit_s))
        yield handle
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_tasks(), loop).result(LIMIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
