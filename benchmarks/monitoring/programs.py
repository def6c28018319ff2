"""Peers as programs in environments of their own: a plan goes in, what they found comes out."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.serving.environments import environment, pinned

PEERS = Path(__file__).parent / "peers"
NAMES = ("evidently", "nannyml", "whylogs")
LIMIT_S = 3600.0
_TOLD_CHARS = 400
_ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ProgramFailed(Exception):
    """A peer that could not do its work; the message says why."""


def ask(peer: str, work: str, plan: Mapping[str, Any], say: Callable[[str], None]) -> Any:
    """What the peer's program answers. Raises ProgramFailed, InstallFailed."""
    folder = environment(peer, say, PEERS)
    with tempfile.TemporaryDirectory() as room:
        asked, told = Path(room) / "plan.json", Path(room) / "result.json"
        asked.write_text(json.dumps(plan))
        command = [str(folder / "python"), str(PEERS / peer / "program.py"), work, str(asked), str(told)]
        path = {"PYTHONPATH": str(PEERS)}
        try:
            done = subprocess.run(
                command, env=os.environ | _ONE_CORE | path, capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ProgramFailed(f"it took more than {LIMIT_S:.0f} s") from error
        if done.returncode:
            raise ProgramFailed(f"it ended with code {done.returncode}: {done.stderr.strip()[-_TOLD_CHARS:]}")
        return json.loads(told.read_text())


def versions() -> dict[str, str]:
    return dict(pinned(peer, PEERS) for peer in NAMES)
