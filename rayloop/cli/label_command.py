"""``rayloop label``: give rows to label, take their labels, and show how far labelers agree.

It runs where it is typed, not as a job: it reads keys and files of this machine. With ``RAYLOOP_ADDRESS`` the process
has the cluster's stores but no connection to the log writer; then a job hands the labels on.
"""

from __future__ import annotations

import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cluster import connection
from cluster.errors import RayloopError, VersionNotFound
from cluster.names import CHAMPION
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from features.manifest import MANIFEST_FILE, Manifest
from rayloop.cli.submission import require_stores, submit_outside
from rayloop.labeling.annotation_store import (
    commit_log,
    log_labels,
    measure_labelers,
    read_annotations,
    require_answered,
    store_annotations,
)
from rayloop.labeling.key_session import END_OF_INPUT, is_typed, run_session
from rayloop.labeling.label_file import read_labels, write_queue
from rayloop.labeling.label_queue import read_queue

_CONTROL_D, _ESCAPE = "\x04", "\x1b"
_STORES = ("tracking_uri", "artifact_root", "catalog_uri", "warehouse")
PrintLine = Callable[[str], None]


class QueueOptions(NamedTuple):
    """Which rows of the queue a labeler gets."""

    rows: int
    labeler: str
    labelers: int
    """How many labelers each row gets."""


class LabelCommand:
    """One call of the command, on one model.

    Args:
        settings: The stores, and which cluster.
        model: Name of the model.
        print_line: Called with each line.

    Raises:
        SettingsError: The cluster is one of other machines, and its stores are not set here.
        VersionNotFound: The model has no version.
    """

    def __init__(self, settings: Settings, model: str, print_line: PrintLine) -> None:
        require_stores(settings, *_STORES)
        self._settings, self._model, self._print = settings, model, print_line
        self._outside = bool(settings.address) and not connection.in_job()
        self._tables = Tables(settings)
        self._manifest = _manifest(Registry(settings), model)

    def write_rows(self, path: Path, options: QueueOptions) -> None:
        """Write the rows most worth a label to a CSV file. Raises DataError when there are none."""
        queue = self._queue(options)
        write_queue(queue, path)
        self._print(
            f"{queue.height} rows in {path}: fill in the column label, then rayloop label {self._model} --in {path}"
        )

    def read_file(self, path: Path, labeler: str) -> None:
        """Take the labels of a CSV file, all or none. Raises DataError for a file that is not entirely usable."""
        labels = read_labels(path, self._manifest.task)
        self._commit_log()
        require_answered(self._tables, self._model, labels.get_column("id"))
        count = store_annotations(self._tables, self._model, labeler, labels)
        self._print(f"{self._model}: {labels.height} labels by {labeler} in {path}, {count} of them new")
        self.hand_over()

    def read_keys(self, options: QueueOptions) -> None:
        """Take labels by key press. Raises RayloopError when standard input is no terminal."""
        if not sys.stdin.isatty():
            raise RayloopError("rayloop.label_no_terminal", model=self._model)
        manifest, queue = self._manifest, self._queue(options)
        self._commit_log()

        def store(labels: pl.DataFrame) -> None:
            store_annotations(self._tables, self._model, options.labeler, labels)

        keys = not is_typed(manifest.task)
        try:
            with _single_keys() if keys else nullcontext():
                read = _read_key if keys else _read_line
                count = run_session(queue, manifest.task, manifest.features.columns, read, self._print, store)
            self._print(f"{self._model}: {count} labels by {options.labeler}")
        finally:
            self.hand_over()

    def hand_over(self) -> None:
        """Log the labels that follow from all annotations."""
        if self._outside:
            submit_outside(self._settings, "label", self._model, log=True)
            return
        self._commit_log()
        count = log_labels(self._tables, self._model, self._manifest.task)
        self._print(f"{self._model}: {count} labels logged")

    def show_agreement(self) -> None:
        """Print how far labelers agree."""
        self._print(f"{self._model}: {measure_labelers(self._tables, self._model, self._manifest.task)}")

    def _commit_log(self) -> None:
        """Commit the answers that the log writer holds: without one, labels are refused before any is stored."""
        if not self._outside:
            connection.connect(self._settings)
            commit_log(self._model)

    def _queue(self, options: QueueOptions) -> pl.DataFrame:
        annotations = read_annotations(self._tables, self._model)
        return read_queue(self._tables, self._model, self._manifest.task, annotations, **options._asdict())


def _manifest(registry: Registry, model: str) -> Manifest:
    """The manifest of the champion, or of the newest version while there is none."""
    version = registry.version_by_alias(model, CHAMPION) or next(reversed(registry.versions(model)), None)
    if version is None:
        raise VersionNotFound("registry.no_version", model=model)
    return Manifest.load(registry.fetch_file(version, MANIFEST_FILE))


@contextmanager
def _single_keys() -> Iterator[None]:
    """Give each key when it is pressed. What was typed before a row is shown counts: fast labelers are ahead of it."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _read_key() -> str:
    key = sys.stdin.read(1)
    # An arrow key is ESC [ A: its last character is no label.
    if key == _ESCAPE and sys.stdin.read(1) in ("[", "O"):
        sys.stdin.read(1)
    return END_OF_INPUT if key == _CONTROL_D else key


def _read_line() -> str:
    return sys.stdin.readline()
