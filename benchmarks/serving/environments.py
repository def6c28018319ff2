"""A virtual environment for each peer, created when first needed, and again when its pins change."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
VENVS = Path(__file__).parents[1] / ".venvs"

_STAMP = ".installed"
_ERROR_CHARS = 800


class InstallFailed(Exception):
    """A peer's packages that could not be installed; the message says why."""


def requirements(peer: str, peers: Path = PEERS) -> Path:
    return peers / peer / "requirements.txt"


def pinned(peer: str, peers: Path = PEERS) -> tuple[str, str]:
    """Name and version of the peer itself, from the first line of its requirements."""
    name, _, version = requirements(peer, peers).read_text().splitlines()[0].partition("==")
    return name, version


def environment(peer: str, note: Callable[[str], None], peers: Path = PEERS) -> Path:
    """The ``bin`` folder of the environment of a peer in the folder ``peers``. Raises InstallFailed."""
    folder = VENVS / peer
    digest = hashlib.sha256(requirements(peer, peers).read_bytes()).hexdigest()
    stamp = folder / _STAMP
    if not stamp.exists() or stamp.read_text() != digest:
        note(f"installing {peer}")
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # The pins cover the whole environment, so pip resolves nothing.
        _run([*pip, "--no-deps", "-r", str(requirements(peer, peers))])
        stamp.write_text(digest)
    return folder / "bin"


def _run(command: list[str]) -> None:
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise InstallFailed(f"{' '.join(command[:4])} ... failed: {process.stderr.strip()[-_ERROR_CHARS:]}")
