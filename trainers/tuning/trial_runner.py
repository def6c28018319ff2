"""Trials on Ray Tune: each trains in its own process, or, with several workers, as a data-parallel Ray Train job."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from cluster.env import environment_defaults
from cluster.log_suppression import suppress_logs
from trainers.config import ModelSpec, Parameter, TrainConfig, TuneConfig, applied
from trainers.data.datasets import EncodedData
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpoints
from trainers.loop.process_group import World
from trainers.loop.train_events import Epoch, Outcome
from trainers.loop.train_spec import Job
from trainers.loop.worker_group import gpus_per_worker, on_workers
from trainers.metrics import Primary
from trainers.tuning.search_spaces import decoded
from trainers.tuning.trial import Trial
from trainers.tuning.trial_store import Journal
from trainers.worker_errors import deliberate, last_line

OBJECTIVE = "best_so_far"
# Of a trial that only waits for its workers; Ray Tune does not accept nothing.
WAITING_CPUS = 0.01
# Its old reporter is the one that can be silenced; its loggers write files that nobody reads.
TUNE_VARIABLES = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}

_PLAN = "plan"


@dataclass(frozen=True)
class Plan:
    """A trial whose settings are known before. ``weights`` is the folder that it leaves its checkpoints in, ``origin`` the one that
    it goes on from, ``until`` the epoch that it pauses after; empty and 0 where they do not apply."""

    trial: Trial
    spec: ModelSpec
    config: TrainConfig
    weights: str = ""
    origin: str = ""
    until: int = 0


@dataclass(frozen=True)
class Stage:
    """What all trials of a search have in common, and who is told of them."""

    job: Job
    tuning: TuneConfig
    encoded: EncodedData
    metric: Primary
    journal: Journal
    progress: Callable[[str], None]
    watch: Callable[[Trial], None]
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        # What was spent before an interruption counts.
        spent = max((trial.at for trial in self.journal.ended()), default=0.0)
        object.__setattr__(self, "began", self.began - spent)

    @property
    def elapsed(self) -> float:
        """Seconds of this search, over interruptions."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds of the budget, without end when there is none."""
        return 60 * self.tuning.minutes - self.elapsed if self.tuning.minutes else math.inf

    def propose(self, numbers: Sequence[int], searcher: Searcher, scheduler: TrialScheduler) -> None:
        """As many trials as there are ``numbers``, with settings from ``searcher``."""
        if not numbers or self.left <= 0:
            return
        spaces = self.tuning.space

        def trial_of(index: int, config: dict[str, Any]) -> Trial:
            return Trial(number=numbers[index], parameters=decoded(spaces, config), seed=self.job.config.seed)

        settings = {"search_alg": searcher, "scheduler": scheduler, "num_samples": len(numbers)}
        self._run((), trial_of, {}, settings, self.left)

    def carry_out(self, plans: Sequence[Plan], seconds: float = math.inf) -> None:
        """The trials of ``plans`` that have not ended yet."""
        ended = {trial.number for trial in self.journal.ended()}
        open_ = [plan for plan in plans if plan.trial.number not in ended]
        if not open_ or seconds <= 0:
            return

        def trial_of(index: int, config: dict[str, Any]) -> Trial:
            plan: Plan = open_[config[_PLAN]]
            return plan.trial

        space = {_PLAN: tune.grid_search(list(range(len(open_))))}
        self._run(tuple(open_), trial_of, space, {}, seconds)

    def _run(
        self,
        plans: tuple[Plan, ...],
        trial_of: Callable[[int, dict[str, Any]], Trial],
        space: dict[str, Any],
        settings: dict[str, Any],
        seconds: float,
    ) -> None:
        trainable = tune.with_parameters(_trial, job=self.job, tuning=self.tuning, encoded=self.encoded, plans=plans)
        follower = _Follower(self, trial_of, {plan.trial.number: plan.until for plan in plans})
        with (
            tempfile.TemporaryDirectory(prefix="rayloop-tune-") as folder,
            environment_defaults(**TUNE_VARIABLES),
            suppress_logs("ray.tune"),
        ):
            tune.Tuner(
                tune.with_resources(trainable, _resources(self.job, self.tuning)),
                param_space=space,
                tune_config=tune.TuneConfig(
                    **settings,
                    max_concurrent_trials=self.tuning.max_concurrent,
                    time_budget_s=seconds if math.isfinite(seconds) else None,
                    # A stopped trial that has workers ends with its actor, and so do they.
                    reuse_actors=self.tuning.workers_per_trial == 1,
                ),
                run_config=tune.RunConfig(name="tune", storage_path=folder, verbose=0, callbacks=[follower]),
            ).fit()


def _trial(chosen: dict[str, Any], job: Job, tuning: TuneConfig, encoded: EncodedData, plans: tuple[Plan, ...]) -> None:
    """The train function on one setting: in this process, or on workers of its own."""
    if plans:
        plan = plans[chosen[_PLAN]]
    else:
        spec, config = applied(job.spec, job.config, decoded(tuning.space, chosen))
        plan = Plan(Trial(number=0, parameters={}), spec, config)
    config = plan.config.model_copy(update={"workers": tuning.workers_per_trial, "min_workers": 0})
    job = Job(plan.spec, config, job.task, job.inputs)
    outcome = (_together if tuning.workers_per_trial > 1 else _alone)(job, encoded, plan)
    if plan.until:
        # One that was interrupted after its last checkpoint has nothing left to train, and has told nothing.
        _report(outcome.epochs[-1])


def _together(job: Job, encoded: EncodedData, plan: Plan) -> Outcome:
    return on_workers(
        job,
        encoded,
        callbacks=[TuneReportCallback()],
        checkpoints=plan.weights,
        origin=plan.origin,
        until=plan.until,
    )


def _alone(job: Job, encoded: EncodedData, plan: Plan) -> Outcome:
    torch.set_num_threads(job.config.threads)
    world = World(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    checkpoints = Checkpoints(plan.weights, plan.origin) if plan.weights else None
    feed, held_out = encoded.feeds(job.config)
    return train_loop.train(job, feed, held_out, world, _report, checkpoints=checkpoints, until=plan.until)


def _report(epoch: Epoch) -> None:
    tune.report(epoch.report())


class _Follower(tune.Callback):
    """Follows the trials: into the journal when they begin, and to everybody when they end."""

    def __init__(self, stage: Stage, trial_of: Callable[[int, dict[str, Any]], Trial], until: dict[int, int]) -> None:
        self._stage, self._trial_of, self._until = stage, trial_of, until
        self._curves: dict[str, dict[int, float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune saves its callbacks with the experiment, which is not gone on from; what they hold may not be picklable.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._stage.journal.put(self._planned(trials, trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._curves.setdefault(trial.trial_id, {})[result["epoch"]] = result[OBJECTIVE]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(self._planned(trials, trial), trial, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(self._planned(trials, trial), trial, Path(trial.error_file).read_text())

    def _planned(self, trials: list[Any], trial: Any) -> Trial:
        return self._trial_of(trials.index(trial), trial.config)

    def _end(self, planned: Trial, trial: Any, error: str) -> None:
        last, stage = trial.last_result or {}, self._stage
        wanted = self._until.get(planned.number) or last.get("epochs", 0)
        whole = last.get("epoch", -1) >= wanted
        ended = planned.model_copy(
            update={
                "metric": last.get(OBJECTIVE, math.nan),
                "epochs": last.get("epoch", 0),
                "seconds": last.get("time_total_s", 0.0),
                "status": "failed" if error else "finished" if whole else "stopped",
                "error": str(deliberate(error) or last_line(error)),
                "curve": tuple(self._curves.get(trial.trial_id, {}).values()),
                "at": stage.elapsed,
            }
        )
        stage.journal.put(ended)
        stage.watch(ended)
        stage.progress(_line(ended, stage.metric.name))


def _line(trial: Trial, metric: str) -> str:
    shown = "  ".join(f"{name}={short(value)}" for name, value in trial.parameters.items())
    again = f" (trial {trial.parent} with seed {trial.seed})" if trial.stage == "finalist" else ""
    return (
        f"trial {trial.number}{again} {trial.status} after {trial.epochs} epochs, {trial.seconds:.1f} s: "
        f"{metric} {trial.metric:.4f}  {shown}  {trial.error}".rstrip()
    )


def short(value: Parameter) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _resources(job: Job, tuning: TuneConfig) -> dict[str, float]:
    """Of the trial's own process; a trial with several workers lets Ray Train ask for theirs."""
    if tuning.workers_per_trial > 1:
        return {"cpu": WAITING_CPUS}
    gpus = gpus_per_worker(job.config, tuning.max_concurrent)
    return {"cpu": tuning.cpus_per_trial, **({"gpu": gpus} if gpus else {})}
