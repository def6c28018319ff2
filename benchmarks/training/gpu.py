"""Training on a GPU compared with plain torch in one process, how busy the GPU is, and how long it waits for rows.

``python -m benchmarks.training.gpu`` writes its own page, which names the GPU: benchmarks/results/training-gpu.md.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from statistics import mean, median
from typing import Any, NamedTuple

import torch

from benchmarks import results
from benchmarks.progress import ProgressPrinter
from benchmarks.results import Row, Target, row
from benchmarks.training.case import CONFIG, SPEC, TrainingCase, arguments, cluster, flights
from trainers.config import ModelSpec, TrainConfig
from trainers.data.datasets import TrainingData
from trainers.loop.train_events import EpochResult, StepProgress
from trainers.loop.trainer import FitRequest, fit

AREA = "training-gpu"
ALONE = "torch, rows on the GPU"
SAMPLE_MS = 100
_TARGET = Target(of="ratio", sign="≥", limit=0.95)
_ABOUT = """\
rayloop trains through Ray Train; the peer is one process of plain torch that holds all rows on the GPU. \
Both train the same module.
docs/benchmarks.md describes the method."""


class GpuWork(NamedTuple):
    """A model and how it is trained; ``peer`` is whether plain torch trains it too."""

    words: str
    spec: ModelSpec
    config: TrainConfig
    peer: bool = True


_FT = ModelSpec(build="ft_transformer", parameters={"width": 192, "blocks": 3, "heads": 8})
_GPU = CONFIG.model_copy(update={"gpu": True, "epochs": 60})
WORKS = (
    GpuWork("MLP 256-128, batches of 2,048, float32", SPEC, _GPU),
    GpuWork(
        "FT-Transformer of width 192, batches of 4,096, bf16",
        _FT,
        _GPU.model_copy(update={"batch_size": 4096, "precision": "bf16", "epochs": 12}),
    ),
    GpuWork(
        "MLP 256-128, batches of 2,048, float32, rows streamed by Ray Data",
        SPEC,
        _GPU.model_copy(update={"cache_mib": 0, "epochs": 4}),
        peer=False,
    ),
    GpuWork(
        "FT-Transformer of width 192, batches of 4,096, bf16, rows streamed by Ray Data",
        _FT,
        _GPU.model_copy(update={"batch_size": 4096, "precision": "bf16", "cache_mib": 0, "epochs": 4}),
        peer=False,
    ),
)


class GpuRun(NamedTuple):
    """Rows per second of each epoch, GPU utilization in percent, and the share of the steps' time spent on data."""

    rates: list[float]
    busy: float
    data: float

    @property
    def steady(self) -> float:
        return median(self.rates[1:])


def main() -> None:
    """Measure all works and write the page."""
    options = arguments("python -m benchmarks.training.gpu", str(__doc__)).parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no GPU that torch can use")
    host, progress = results.machine(), ProgressPrinter()
    options.folder.mkdir(parents=True, exist_ok=True)
    host["gpu"] = torch.cuda.get_device_name()
    case = flights(options.folder, progress)
    with cluster(options.folder):
        for work in WORKS:
            rows = _rows(work, case, TrainingData(case.table), options.rounds, progress)
            progress(f"written to {results.write(AREA, rows, _versions(), _ABOUT, options.out, host)}")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("ray", "torch")} | {"cuda": str(torch.version.cuda)}


def _rows(
    work: GpuWork, case: TrainingCase, data: TrainingData, rounds: int, progress: Callable[[str], None]
) -> list[Row]:
    """Both alternate, every other round in reverse."""
    runs: dict[str, list[GpuRun]] = {"ours": [], "peer": []}
    turns = ("ours", "peer") if work.peer else ("ours",)
    for number in range(rounds):
        for name in turns if number % 2 == 0 else reversed(turns):
            gpu_run = _ours(work, case, data) if name == "ours" else _alone(work, case)
            runs[name].append(gpu_run)
            progress(
                f"{work.words}, {name}: {gpu_run.steady:,.0f} rows/s, GPU {gpu_run.busy:.0f}%, data {gpu_run.data:.1%}"
            )
    ours, peer = runs["ours"], runs["peer"]

    def median_or_none(of: Callable[[GpuRun], float], runs: list[GpuRun]) -> float | None:
        return results.median_or_none([of(gpu_run) for gpu_run in runs])

    def compared(what: str, unit: str, of: Callable[[GpuRun], float], target: Target | None = None) -> Row:
        value = median_or_none(of, peer)
        return row(f"{what}: {work.words}", unit, median_or_none(of, ours), ALONE if work.peer else "", value, target)

    lost = row(
        f"lost on data: {work.words}", "% of the steps' time", median_or_none(lambda gpu_run: 100 * gpu_run.data, ours)
    )
    return [
        compared("training rows per second", "rows/s", lambda gpu_run: gpu_run.steady, _TARGET if work.peer else None),
        compared("the GPU had work", "% of the time", lambda gpu_run: gpu_run.busy),
        lost,
    ]


def _ours(work: GpuWork, case: TrainingCase, data: TrainingData) -> GpuRun:
    """How busy the GPU is from the first epoch's end to the last's, validation left in."""
    with _watched() as busy:

        def watch(event: EpochResult | StepProgress) -> None:
            if isinstance(event, EpochResult):
                busy.mark()

        result = fit(
            FitRequest(work.spec, work.config, case.task, case.encoder), data, lambda line: None, on_event=watch
        )
    seconds = {stage: sum(epoch.seconds[stage] for epoch in result.epochs[1:]) for stage in result.epochs[0].seconds}
    rates = [epoch.rows_per_second for epoch in result.epochs]
    return GpuRun(rates, busy.share(), seconds["data"] / sum(seconds.values()))


def _alone(work: GpuWork, case: TrainingCase) -> GpuRun:
    plan, result = case.folder / "gpu-plan.json", case.folder / "gpu-result.json"
    settings: dict[str, Any] = {
        "spec": work.spec.model_dump(),
        "config": work.config.model_dump(),
        "task": case.task.model_dump(),
        "inputs": case.inputs.model_dump(mode="json"),
        **{name: case.plan[name] for name in ("parquet", "numbers", "codes")},
    }
    plan.write_text(json.dumps(settings))
    with _watched() as busy:
        command = [sys.executable, "-m", "benchmarks.training.gpu_alone", str(plan), str(result)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in process.stdout:
                busy.mark()
        if process.returncode:
            sys.exit(f"{ALONE}: it ended with code {process.returncode}")
    return GpuRun(json.loads(result.read_text())["rates"], busy.share(), 0.0)


class _Busy:
    """Samples of the GPU's utilization; those between the first and the last mark count."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self._marks: list[int] = []

    def mark(self) -> None:
        self._marks.append(len(self.samples))

    def share(self) -> float:
        """NaN where the driver does not report it."""
        samples = self.samples[self._marks[0] : self._marks[-1]] or self.samples[-1:]
        return mean(samples) if samples else math.nan


@contextmanager
def _watched() -> Iterator[_Busy]:
    """The driver's own measure: percent of the last fraction of a second in which some kernel ran."""
    command = [
        "nvidia-smi",
        "--query-gpu=utilization.gpu",
        "--format=csv,noheader,nounits",
        "--id=0",
        f"-lms={SAMPLE_MS}",
    ]
    busy = _Busy()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout

        def read() -> None:
            for line in lines:
                if line.strip().isdecimal():
                    busy.samples.append(float(line))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            yield busy
        finally:
            process.terminate()
            thread.join()


if __name__ == "__main__":
    main()
