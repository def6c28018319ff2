"""Search over declared spaces with Ray Tune: Optuna's TPE proposes, ASHA stops what does not keep up."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from cluster.contracts import Frozen, Task
from cluster.errors import RayloopError
from cluster.quiet import environment, quiet
from features.encoding import Encoder
from trainers import loop, models, tasks
from trainers.config import Choice, IntRange, LogUniform, ModelSpec, Parameter, Space, TrainConfig, TuneConfig, applied
from trainers.course import Epoch
from trainers.data import EncodedData, TrainingData
from trainers.failures import deliberate, last_line
from trainers.job import Job
from trainers.workers import gpus_per_worker, on_workers
from trainers.world import World

OBJECTIVE = "best_so_far"
RANDOM_SHARE = 0.5
# Of a trial that only waits for its workers; Ray Tune does not accept nothing.
WAITING_CPUS = 0.01
# Its old reporter is the one that can be silenced; its loggers write files that nobody reads.
TUNE_VARIABLES = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}

Progress = Callable[[str], None]


class Trial(Frozen):
    """One row of the table of trials. ``metric`` is the best of its epochs, NaN when it failed.

    "stopped": it ended before its last epoch, by ASHA, patience or the time budget.
    """

    number: int
    parameters: dict[str, Parameter]
    metric: float
    epochs: int
    seconds: float
    status: Literal["finished", "stopped", "failed"]
    error: str = ""


@dataclass(frozen=True)
class TuneResult:
    """All trials in the order in which they were proposed, and the winner as what to fit."""

    trials: tuple[Trial, ...]
    best: Trial
    spec: ModelSpec
    config: TrainConfig
    metric: str
    seconds: float


def search(
    spec: ModelSpec,
    base: TrainConfig,
    tuning: TuneConfig,
    task: Task,
    encoder: Encoder,
    data: TrainingData,
    progress: Progress = print,
) -> TuneResult:
    """Try ``tuning.trials`` settings. Raises ProjectError for a bad space, RayloopError when no trial succeeds."""
    started = time.perf_counter()
    models.check_parameters(spec, [name for name in tuning.space if name not in TrainConfig.model_fields])
    encoded = data.encoded(encoder, task, base.cache_mib)
    job = Job(spec, base, task, encoded.inputs)
    models.build(spec, encoded.inputs, task)
    journal = _Journal(tuning, tasks.primary(task), progress)
    with (
        tempfile.TemporaryDirectory(prefix="rayloop-tune-") as folder,
        environment(**TUNE_VARIABLES),
        quiet("ray.tune"),
    ):
        _tuner(job, tuning, encoded, journal, folder).fit()
    best = journal.best()
    winner, config = applied(spec, base, best.parameters)
    return TuneResult(journal.trials(), best, winner, config, tasks.primary(task).name, time.perf_counter() - started)


def _tuner(job: Job, tuning: TuneConfig, encoded: EncodedData, journal: _Journal, folder: str) -> tune.Tuner:
    metric = tasks.primary(job.task)
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_trial, job=job, tuning=tuning, encoded=encoded), _resources(job, tuning)
        ),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(job, tuning, metric),
            scheduler=ASHAScheduler(
                metric=OBJECTIVE,
                mode=metric.direction,
                max_t=job.config.epochs,
                grace_period=min(tuning.grace_epochs, job.config.epochs),
                reduction_factor=tuning.reduction,
            ),
            num_samples=tuning.trials,
            max_concurrent_trials=tuning.max_concurrent,
            time_budget_s=60 * tuning.minutes or None,
            # A stopped trial that has workers ends with its actor, and so do they.
            reuse_actors=tuning.workers_per_trial == 1,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=folder, verbose=0, callbacks=[journal]),
    )


def _trial(chosen: dict[str, Any], job: Job, tuning: TuneConfig, encoded: EncodedData) -> None:
    """The train function on one setting: in this process, or on workers of its own."""
    spec, config = applied(job.spec, job.config, {**decoded(tuning.space, chosen), "workers": tuning.workers_per_trial})
    job = Job(spec, config, job.task, job.inputs)
    if tuning.workers_per_trial > 1:
        on_workers(job, encoded, callbacks=[TuneReportCallback()])
        return
    torch.set_num_threads(config.threads)
    world = World(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    loop.train(job, *encoded.feeds(config), world, _report)


def _report(epoch: Epoch) -> None:
    tune.report(epoch.report())


class _Journal(tune.Callback):
    """Follows the trials, tells ``progress``, and keeps the table."""

    def __init__(self, tuning: TuneConfig, metric: tasks.Primary, progress: Progress) -> None:
        self._tuning = tuning
        self._metric = metric
        self._progress = progress
        self._ended: dict[int, Trial] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune saves its callbacks with the experiment; what ``progress`` holds may not be picklable.
        return {**self.__dict__, "_progress": None}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trials.index(trial) + 1, trial, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trials.index(trial) + 1, trial, Path(trial.error_file).read_text())

    def trials(self) -> tuple[Trial, ...]:
        return tuple(self._ended[number] for number in sorted(self._ended))

    def best(self) -> Trial:
        able = [trial for trial in self.trials() if not math.isnan(trial.metric)]
        if not able:
            reasons = [trial.error for trial in self.trials() if trial.error]
            raise RayloopError(
                f"no trial gave a result: {reasons[0] if reasons else 'none ran to the end of an epoch'}"
            )
        return (max if self._metric.direction == "max" else min)(able, key=lambda trial: trial.metric)

    def _end(self, number: int, trial: Any, error: str) -> None:
        ended = _ended(number, trial, self._tuning, error)
        self._ended[ended.number] = ended
        shown = "  ".join(f"{name}={_short(value)}" for name, value in ended.parameters.items())
        self._progress(
            f"trial {ended.number} ({len(self._ended)}/{self._tuning.trials} ended) {ended.status} "
            f"after {ended.epochs} epochs, {ended.seconds:.1f} s: "
            f"{self._metric.name} {ended.metric:.4f}  {shown}  {ended.error}".rstrip()
        )


def _ended(number: int, trial: Any, tuning: TuneConfig, error: str) -> Trial:
    last = trial.last_result or {}
    return Trial(
        number=number,
        parameters=decoded(tuning.space, trial.config),
        metric=last.get(OBJECTIVE, math.nan),
        epochs=last.get("epoch", 0),
        seconds=last.get("time_total_s", 0.0),
        status="failed" if error else "finished" if last.get("epoch") == last.get("epochs", 0) else "stopped",
        error=_reason(error),
    )


def _searcher(job: Job, tuning: TuneConfig, metric: tasks.Primary) -> OptunaSearch:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    random_trials = max(1, int(RANDOM_SHARE * tuning.trials))
    return OptunaSearch(
        space={name: distribution(space) for name, space in tuning.space.items()},
        metric=OBJECTIVE,
        mode=metric.direction,
        sampler=TPESampler(seed=tuning.seed, n_startup_trials=random_trials),
        points_to_evaluate=[start] if (start := _start(job, tuning)) else None,
    )


def distribution(space: Space) -> BaseDistribution:
    """Optuna's form of a declared space. A Choice is searched by position: its options need not be scalars."""
    if isinstance(space, Choice):
        return CategoricalDistribution(range(len(space.options)))
    if isinstance(space, IntRange):
        return IntDistribution(space.low, space.high)
    return FloatDistribution(space.low, space.high, log=isinstance(space, LogUniform))


def decoded(spaces: Mapping[str, Space], chosen: Mapping[str, Any]) -> dict[str, Parameter]:
    """What Optuna chose, as values of the declared spaces."""
    return {
        name: space.options[chosen[name]] if isinstance(space, Choice) else chosen[name]
        for name, space in spaces.items()
    }


def _start(job: Job, tuning: TuneConfig) -> dict[str, Any]:
    """The base values in Optuna's form; empty unless all of them are known and lie in the space."""
    known = {**models.parameters(job.spec), **job.config.model_dump()}
    point: dict[str, Any] = {}
    for name, space in tuning.space.items():
        value = known.get(name)
        if isinstance(space, Choice):
            if value not in space.options:
                return {}
            point[name] = space.options.index(value)
        elif not isinstance(value, (int, float)) or not space.low <= value <= space.high:
            return {}
        else:
            point[name] = value
    return point


def _resources(job: Job, tuning: TuneConfig) -> dict[str, float]:
    """Of the trial's own process; a trial with several workers lets Ray Train ask for theirs."""
    if tuning.workers_per_trial > 1:
        return {"cpu": WAITING_CPUS}
    gpus = gpus_per_worker(job.config, tuning.max_concurrent)
    return {"cpu": tuning.cpus_per_trial, **({"gpu": gpus} if gpus else {})}


def _reason(error: str) -> str:
    return str(deliberate(error) or last_line(error))


def _short(value: Parameter) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
