"""Runs trials on Ray Tune: each in its own process, or, with several workers, as a data-parallel Ray Train job."""

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
from trainers.config import ModelSpec, TrainConfig, TuneConfig, apply_settings
from trainers.data.datasets import EncodedData
from trainers.loop import library_loop, train_loop
from trainers.loop.checkpointer import Checkpointer
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_events import EpochResult, TrainResult
from trainers.loop.train_spec import TrainSpec
from trainers.loop.worker_group import gpus_per_worker, run_worker_group, workers_of_one_node
from trainers.metrics import PrimaryMetric
from trainers.trees.parameters import pool_workers
from trainers.tuning.search_spaces import decode
from trainers.tuning.trial import Trial, format_value
from trainers.tuning.trial_store import TrialStore
from trainers.worker_errors import attach_details, last_line, unwrap_error

OBJECTIVE = "best_so_far"
"""Key of the reported metric that trials are compared by."""
# A trial that only waits for its workers; Ray Tune requires more than 0.
COORDINATOR_CPUS = 0.01
# Only the old reporter can be silenced, and the loggers write files that nothing reads.
RAY_TUNE_ENV = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}

TrialOf = Callable[[int, dict[str, Any]], Trial]
"""From the index of Ray Tune's trial and its proposal, the trial before it ran."""

_PLAN = "plan"


@dataclass(frozen=True)
class TrialPlan:
    """A trial with predetermined settings."""

    trial: Trial
    spec: ModelSpec
    config: TrainConfig
    checkpoints: str = ""
    """Folder for its checkpoints; empty writes none."""
    origin: str = ""
    """Folder whose newest checkpoint it continues from; empty starts from scratch."""
    pause_after: int = 0
    """Epoch after which it pauses; 0 trains to the end."""


@dataclass
class SearchRun:
    """Runs the trials of one search, and stores and reports each."""

    spec: TrainSpec
    tuning: TuneConfig
    encoded_data: EncodedData
    metric: PrimaryMetric
    store: TrialStore
    print_line: Callable[[str], None]
    on_trial: Callable[[Trial], None]
    start_time: float = field(init=False)
    """Start on the monotonic clock, moved back by the time spent before an interruption."""

    def __post_init__(self) -> None:
        spent = max((trial.at for trial in self.store.ended_trials()), default=0.0)
        self.start_time = time.monotonic() - spent

    @property
    def elapsed(self) -> float:
        """Seconds of this search, over interruptions."""
        return time.monotonic() - self.start_time

    @property
    def remaining(self) -> float:
        """Seconds left of the time budget; infinite without one."""
        return 60 * self.tuning.minutes - self.elapsed if self.tuning.minutes else math.inf

    def run_proposals(self, numbers: Sequence[int], searcher: Searcher, scheduler: TrialScheduler) -> None:
        """Run a trial for each of ``numbers``, with settings that ``searcher`` proposes."""
        if not numbers or self.remaining <= 0:
            return

        def trial_of(index: int, proposal: dict[str, Any]) -> Trial:
            parameters = decode(self.tuning.space, proposal)
            return Trial(number=numbers[index], parameters=parameters, seed=self.spec.config.seed)

        self._run((), trial_of, self.remaining, search_alg=searcher, scheduler=scheduler, num_samples=len(numbers))

    def run_plans(self, plans: Sequence[TrialPlan], seconds: float = math.inf) -> None:
        """Run the trials of ``plans`` that have not ended yet, within ``seconds``."""
        ended = {trial.number for trial in self.store.ended_trials()}
        pending = tuple(plan for plan in plans if plan.trial.number not in ended)
        if pending and seconds > 0:
            self._run(pending, lambda index, proposal: pending[int(proposal[_PLAN])].trial, seconds)

    def _run(self, plans: tuple[TrialPlan, ...], trial_of: TrialOf, seconds: float, **settings: Any) -> None:
        trainable = tune.with_parameters(
            _run_trial, spec=self.spec, tuning=self.tuning, encoded_data=self.encoded_data, plans=plans
        )
        recorder = _TrialRecorder(self, trial_of, {plan.trial.number: plan.pause_after for plan in plans})
        with (
            tempfile.TemporaryDirectory(prefix="rayloop-tune-") as folder,
            environment_defaults(**RAY_TUNE_ENV),
            suppress_logs("ray.tune"),
        ):
            tune.Tuner(
                tune.with_resources(trainable, _resources(self.spec, self.tuning)),
                param_space={_PLAN: tune.grid_search(list(range(len(plans))))} if plans else {},
                tune_config=tune.TuneConfig(
                    **settings,
                    max_concurrent_trials=self.tuning.max_concurrent,
                    time_budget_s=seconds if math.isfinite(seconds) else None,
                    # Ending the actor of a stopped trial also ends its workers.
                    reuse_actors=self.tuning.workers_per_trial == 1,
                ),
                run_config=tune.RunConfig(name="tune", storage_path=folder, verbose=0, callbacks=[recorder]),
            ).fit()


@attach_details
def _run_trial(
    proposal: dict[str, Any],
    spec: TrainSpec,
    tuning: TuneConfig,
    encoded_data: EncodedData,
    plans: tuple[TrialPlan, ...],
) -> None:
    """Train one trial, in this process or on its own workers."""
    if plans:
        plan = plans[proposal[_PLAN]]
    else:
        model, config = apply_settings(spec.model, spec.config, decode(tuning.space, proposal))
        plan = TrialPlan(Trial(number=0, parameters={}), model, config)
    config = plan.config.model_copy(update={"workers": tuning.workers_per_trial, "min_workers": 0})
    if not plan.spec.is_module:
        config = pool_workers(config, workers_of_one_node(config))
    spec = TrainSpec(plan.spec, config, spec.task, spec.inputs)
    result = (_train_on_workers if tuning.workers_per_trial > 1 else _train_here)(spec, encoded_data, plan)
    if plan.pause_after:
        # A trial that resumes after its last checkpoint trains nothing, and would report nothing.
        _report(result.epochs[-1])


def _train_on_workers(spec: TrainSpec, encoded_data: EncodedData, plan: TrialPlan) -> TrainResult:
    return run_worker_group(
        spec,
        encoded_data,
        callbacks=[TuneReportCallback()],
        checkpoints=plan.checkpoints,
        origin=plan.origin,
        pause_after=plan.pause_after,
    )


def _train_here(spec: TrainSpec, encoded_data: EncodedData, plan: TrialPlan) -> TrainResult:
    torch.set_num_threads(spec.config.threads)
    if not spec.model.is_module:
        return library_loop.train(spec, *encoded_data.local_rows(), _report)
    group = ProcessGroup(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    checkpointer = Checkpointer(plan.checkpoints, plan.origin) if plan.checkpoints else None
    loader, held_out = encoded_data.local_loaders(spec.config)
    return train_loop.train(
        spec, loader, held_out, group, _report, checkpointer=checkpointer, pause_after=plan.pause_after
    )


def _report(epoch: EpochResult) -> None:
    tune.report(epoch.as_report())


class _TrialRecorder(tune.Callback):
    """Stores trials when they start and end, and reports those that end."""

    def __init__(self, run: SearchRun, trial_of: TrialOf, pauses: dict[int, int]) -> None:
        self._run, self._trial_of, self._pauses = run, trial_of, pauses
        self._curves: dict[str, dict[int, float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune saves its callbacks with the experiment, which is never resumed; their content may not be picklable.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._run.store.put(self._find_trial(trials, trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._curves.setdefault(trial.trial_id, {})[result["epoch"]] = result[OBJECTIVE]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(self._find_trial(trials, trial), trial, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(self._find_trial(trials, trial), trial, Path(trial.error_file).read_text())

    def _find_trial(self, trials: list[Any], trial: Any) -> Trial:
        return self._trial_of(trials.index(trial), trial.config)

    def _end(self, record: Trial, trial: Any, error: str) -> None:
        last, run = trial.last_result or {}, self._run
        expected_epochs = self._pauses.get(record.number) or last.get("epochs", 0)
        is_complete = last.get("epoch", -1) >= expected_epochs
        ended = record.model_copy(
            update={
                "metric": last.get(OBJECTIVE, math.nan),
                "epochs": last.get("epoch", 0),
                "seconds": last.get("time_total_s", 0.0),
                "status": "failed" if error else "finished" if is_complete else "stopped",
                "error": str(unwrap_error(error) or last_line(error)),
                "curve": tuple(self._curves.get(trial.trial_id, {}).values()),
                "at": run.elapsed,
            }
        )
        run.store.put(ended)
        run.on_trial(ended)
        run.print_line(_line(ended, run.metric.name))


def _line(trial: Trial, metric: str) -> str:
    settings = "  ".join(f"{name}={format_value(value)}" for name, value in trial.parameters.items())
    repeat = f" (trial {trial.parent} with seed {trial.seed})" if trial.stage == "finalist" else ""
    return (
        f"trial {trial.number}{repeat} {trial.status} after {trial.epochs} epochs, {trial.seconds:.1f} s: "
        f"{metric} {trial.metric:.4f}  {settings}  {trial.error}".rstrip()
    )


def _resources(spec: TrainSpec, tuning: TuneConfig) -> dict[str, float]:
    """Resources of the trial's own process; Ray Train requests those of a trial's workers."""
    if tuning.workers_per_trial > 1:
        return {"cpu": COORDINATOR_CPUS}
    gpus = gpus_per_worker(spec.config, tuning.max_concurrent) if spec.model.is_module else 0.0
    return {"cpu": tuning.cpus_per_trial, **({"gpu": gpus} if gpus else {})}
