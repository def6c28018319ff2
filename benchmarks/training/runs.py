"""One training run: by rayloop on the cluster, or by a peer in its own processes. Results are rows/s by epoch."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.serving.environments import environment
from benchmarks.training.case import CONFIG, SPEC, TrainingCase
from trainers.data.datasets import TrainingData
from trainers.loop.trainer import FitRequest, fit

PEERS = Path(__file__).parent / "peers"
MEMORY, TORCHRUN, LIGHTNING = "torch, in memory", "torchrun DDP, DataLoader", "Lightning"
LIMIT_S = 300.0

# Ray starts its workers with this niceness: peers get the same, so that no side has priority on a busy machine.
_NICE = ("nice", "-n", "15")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_ERROR_CHARS = 400


class TrainingRun(NamedTuple):
    """``rates`` are rows per second of each epoch's steps; ``around_s`` the rest of a fit's time.

    ``shares`` are shares of the training time by stage; for rayloop only.
    """

    rates: list[float]
    around_s: float
    shares: dict[str, float]


class PeerFailed(Exception):
    """A peer that could not train; the message says why."""


def rayloop(case: TrainingCase, data: TrainingData, **changes: Any) -> TrainingRun:
    """Fit on the warm cluster; after the first fit the encoded rows are cached."""
    result = fit(FitRequest(SPEC, CONFIG.model_copy(update=changes), case.task, case.encoder), data, lambda line: None)
    by_stage = {stage: sum(epoch.seconds[stage] for epoch in result.epochs) for stage in result.epochs[0].seconds}
    shares = {stage: seconds / sum(by_stage.values()) for stage, seconds in by_stage.items()}
    return TrainingRun([epoch.rows_per_second for epoch in result.epochs], result.seconds["start and end"], shares)


def peer(
    name: str, case: TrainingCase, workers: int, epochs: int, progress: Callable[[str], None], label: str = "peer"
) -> TrainingRun:
    """Train with a peer; concurrent runs need different labels. Raises PeerFailed, InstallFailed."""
    folder = environment("torch", progress, PEERS)
    plan, result_file = case.folder / f"{label}-plan.json", case.folder / f"{label}-result.json"
    plan.write_text(json.dumps(case.plan | {"workers": workers, "epochs": epochs}))
    result_file.unlink(missing_ok=True)
    began = time.perf_counter()
    _run([*_NICE, *_command(name, folder, workers), str(plan), str(result_file)])
    whole = time.perf_counter() - began
    result: Mapping[str, Any] = json.loads(result_file.read_text())
    return TrainingRun(result["rates"], whole - result["seconds"], {})


def _command(name: str, folder: Path, workers: int) -> list[str]:
    if name == TORCHRUN:
        return [
            str(folder / "torchrun"),
            "--standalone",
            f"--nproc-per-node={workers}",
            str(PEERS / "torch" / "ddp.py"),
        ]
    program = {MEMORY: "memory.py", LIGHTNING: "lit.py"}[name]
    return [str(folder / "python"), str(PEERS / "torch" / program)]


def _run(command: list[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        process = subprocess.run(
            command, env=environ | _ONE_THREAD, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PeerFailed(f"it took more than {LIMIT_S:.0f} s") from error
    if process.returncode:
        raise PeerFailed(f"it ended with code {process.returncode}: {process.stderr.strip()[-_ERROR_CHARS:]}")
