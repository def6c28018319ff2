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

# Ray starts its workers with this niceness: on a machine that is not quite idle the peers shall not come first.
_NICE = ("nice", "-n", "15")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_ERROR_CHARS = 400


class TrainingRun(NamedTuple):
    """``rates`` are rows per second of each epoch's steps; ``around_s`` all that a fit takes beside its epochs.

    ``shares`` are parts of the training time by stage; of rayloop only.
    """

    rates: list[float]
    around_s: float
    shares: dict[str, float]


class PeerFailed(Exception):
    """A peer that could not train; the message says why."""


def rayloop(case: TrainingCase, data: TrainingData, **changes: Any) -> TrainingRun:
    """A fit on the warm cluster; the encoded rows are at hand after the first."""
    done = fit(FitRequest(SPEC, CONFIG.model_copy(update=changes), case.task, case.encoder), data, lambda line: None)
    spent = {stage: sum(epoch.seconds[stage] for epoch in done.epochs) for stage in done.epochs[0].seconds}
    shares = {stage: seconds / sum(spent.values()) for stage, seconds in spent.items()}
    return TrainingRun([epoch.rows_per_second for epoch in done.epochs], done.seconds["start and end"], shares)


def peer(
    name: str, case: TrainingCase, workers: int, epochs: int, progress: Callable[[str], None], label: str = "peer"
) -> TrainingRun:
    """Those that run at the same time have different labels. Raises PeerFailed, InstallFailed."""
    folder = environment("torch", progress, PEERS)
    plan, told = case.folder / f"{label}-plan.json", case.folder / f"{label}-told.json"
    plan.write_text(json.dumps(case.plan | {"workers": workers, "epochs": epochs}))
    told.unlink(missing_ok=True)
    began = time.perf_counter()
    _run([*_NICE, *_command(name, folder, workers), str(plan), str(told)])
    whole = time.perf_counter() - began
    found: Mapping[str, Any] = json.loads(told.read_text())
    return TrainingRun(found["rates"], whole - found["seconds"], {})


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
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, env=kept | _ONE_THREAD, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PeerFailed(f"it took more than {LIMIT_S:.0f} s") from error
    if done.returncode:
        raise PeerFailed(f"it ended with code {done.returncode}: {done.stderr.strip()[-_ERROR_CHARS:]}")
