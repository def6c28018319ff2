"""Peers as programs in their own environments: a plan as JSON in, a result as JSON out."""

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
_ERROR_CHARS = 400
_ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ProgramFailed(Exception):
    """A peer's program failed; the message says why."""


def run_peer(
    peer: str, work: str, plan: Mapping[str, Any], progress: Callable[[str], None], peers: Path = PEERS
) -> Any:
    """Run the program of a peer in the folder ``peers`` and return its result. Raises ProgramFailed, InstallFailed."""
    folder = environment(peer, progress, peers)
    with tempfile.TemporaryDirectory() as folder_name:
        plan_file, result_file = Path(folder_name) / "plan.json", Path(folder_name) / "result.json"
        plan_file.write_text(json.dumps(plan))
        command = [str(folder / "python"), str(peers / peer / "program.py"), work, str(plan_file), str(result_file)]
        path = {"PYTHONPATH": str(peers)}
        try:
            process = subprocess.run(
                command, env=os.environ | _ONE_CORE | path, capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ProgramFailed(f"it took more than {LIMIT_S:.0f} s") from error
        if process.returncode:
            raise ProgramFailed(f"it ended with code {process.returncode}: {process.stderr.strip()[-_ERROR_CHARS:]}")
        return json.loads(result_file.read_text())


def versions() -> dict[str, str]:
    return dict(pinned(peer, PEERS) for peer in NAMES)
