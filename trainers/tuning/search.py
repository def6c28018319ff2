"""Hyperparameter search with Ray Tune.

Optuna's TPE proposes settings and ASHA stops weak trials early, or a population is trained. The finalists are trained
again under other seeds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import optuna
from optuna.samplers import TPESampler
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from cluster.errors import RayloopError
from trainers import metrics
from trainers.config import ModelSpec, Parameter, TrainConfig, TuneConfig, apply_settings
from trainers.data.datasets import TrainingData
from trainers.loop.checkpointer import Checkpointer
from trainers.loop.train_spec import TrainSpec
from trainers.loop.trainer import FitRequest
from trainers.loop.worker_group import capacity_warning
from trainers.models import model_builder
from trainers.models.parameters import check_parameters
from trainers.trees.parameters import BLOCKS, check_settings
from trainers.tuning import pbt, search_spaces
from trainers.tuning.trial import Trial, TuneResult, rank_finalists, rank_trials, select_finalists, trace_changes
from trainers.tuning.trial_runner import OBJECTIVE, SearchRun, TrialPlan
from trainers.tuning.trial_store import TrialStore

RANDOM_SHARE = 0.5
"""Share of trials with random settings, before TPE proposes."""


def search(
    request: FitRequest,
    tuning: TuneConfig,
    data: TrainingData,
    print_line: Callable[[str], None] = print,
    *,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    folder: str = "",
) -> TuneResult:
    """Try ``tuning.trials`` settings of a model and its training.

    Args:
        request: The model, base settings, task and encoder.
        tuning: The search space and how to search it.
        data: Training and validation rows.
        print_line: Receives progress as lines for people.
        on_trial: Receives each trial that has ended.
        folder: A folder or URI that every node can reach, for this search alone. A search that was killed resumes when
            it is called again with the same arguments: trials that had ended are not repeated, and ``on_trial``
            receives them first. The caller deletes it.

    Returns:
        All trials, and the best settings.

    Raises:
        ProjectError: The search space does not fit the model.
        RayloopError: No trial had a result.
    """
    started, task, config = time.perf_counter(), request.task, request.config
    check_parameters(request.spec, [name for name in tuning.space if name not in TrainConfig.model_fields])
    if not request.spec.is_module:
        check_settings(request.spec, config, tuning)
    encoded_data = data.encode(request.encoder, task, config.cache_mib).with_synthetic_rows(config, task)
    model_builder.check(request.spec, encoded_data.inputs, task)
    with ExitStack() as stack:
        root = folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="rayloop-search-"))
        spec, metric = TrainSpec(request.spec, config, task, encoded_data.inputs), metrics.primary_metric(task)
        run = SearchRun(spec, tuning, encoded_data, metric, TrialStore(folder), print_line, on_trial)
        cpus = config.cpus_per_worker if tuning.workers_per_trial > 1 else tuning.cpus_per_trial
        if warning := capacity_warning(tuning.workers_per_trial, cpus):
            print_line(warning)
        _report_earlier_trials(run)
        (_train_population if tuning.method == "pbt" else _run_tpe)(run, f"{root}/weights")
        finalists = _select(run)
        run.run_plans(_plan_repeats(run, finalists))
        # The checkpoints of a population are no longer needed.
        Checkpointer(f"{root}/weights").clear()
    return _result(run, finalists, time.perf_counter() - started)


def _report_earlier_trials(run: SearchRun) -> None:
    """Report the trials that ended before an interruption."""
    ended = run.store.ended_trials()
    if ended:
        run.print_line(f"resuming a search: {len(ended)} trials have ended")
    for trial in ended:
        run.on_trial(trial)


def _run_tpe(run: SearchRun, weights: str) -> None:
    """Trials that TPE proposes from the results so far."""
    ended = {trial.number for trial in run.store.ended_trials()}
    numbers = [number for number in range(1, run.tuning.trials + 1) if number not in ended]
    tuning, (epochs, grace) = run.tuning, _epochs(run)
    asha = ASHAScheduler(
        metric=OBJECTIVE,
        mode=run.metric.direction,
        max_t=epochs,
        grace_period=min(grace, epochs),
        reduction_factor=tuning.reduction,
    )
    run.run_proposals(numbers, _searcher(run), asha)


def _epochs(run: SearchRun) -> tuple[int, int]:
    """Most epochs of a trial, and those before it may be stopped; of trees blocks of rounds, of an estimator one.

    A low learning rate is behind in the first rounds: trees get a fifth of them before they are compared.
    """
    if run.spec.model.is_module:
        return run.spec.config.epochs, run.tuning.grace_epochs
    if run.spec.model.is_estimator:
        return 1, 1
    return BLOCKS, max(run.tuning.grace_epochs, BLOCKS // 5)


def _searcher(run: SearchRun) -> OptunaSearch:
    """Knows the results of ended trials; proposes interrupted trials first, or the base values in a new search."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuning, ended = run.tuning, run.store.ended_trials()
    first = [trial.parameters for trial in run.store.interrupted_trials() if trial.stage == "search"]
    if not ended and not first:
        first = [search_spaces.base_point(tuning.space, run.spec.model, run.spec.config)]
    searcher = OptunaSearch(
        space={name: search_spaces.to_distribution(space) for name, space in tuning.space.items()},
        metric=OBJECTIVE,
        mode=run.metric.direction,
        sampler=TPESampler(
            seed=_seed(tuning.seed, len(ended)), n_startup_trials=max(1, int(RANDOM_SHARE * tuning.trials))
        ),
        points_to_evaluate=[point for parameters in first if (point := search_spaces.encode(tuning.space, parameters))]
        or None,
    )
    for trial in ended:
        if trial.has_result:
            searcher.add_evaluated_point(search_spaces.encode(tuning.space, trial.parameters), trial.metric)
    return searcher


def _seed(seed: int, trials: int) -> int:
    """A new seed after an interruption: the same one would repeat the first proposals."""
    return int(np.random.SeedSequence([seed, trials]).generate_state(1)[0]) if trials else seed


def _train_population(run: SearchRun, weights: str) -> None:
    """Train a population, ``exchange_epochs`` at a time."""
    tuning, epochs = run.tuning, run.spec.config.epochs
    size, base = tuning.trials, search_spaces.base_point(tuning.space, run.spec.model, run.spec.config)
    members = [(0, settings) for settings in pbt.initial_population(tuning.space, base, size, tuning.seed)]
    for generation, pause_after in enumerate(_pauses(epochs, tuning.exchange_epochs)):
        numbers = range(generation * size + 1, (generation + 1) * size + 1)
        plans = [
            _plan_member(run, number, parent, settings, pause_after, weights)
            for number, (parent, settings) in zip(numbers, members, strict=True)
        ]
        run.run_plans(plans, run.remaining)
        trials = [trial for trial in run.store.ended_trials() if trial.number in numbers]
        if len(trials) < size or run.remaining <= 0:
            return
        members = pbt.exploit(trials, tuning.space, run.metric, tuning.seed, generation + 1)
        if not members:
            return


def _pauses(epochs: int, every: int) -> list[int]:
    """Epochs after which a population pauses; the last is the end."""
    return [*range(every, epochs, every), epochs]


def _plan_member(
    run: SearchRun, number: int, parent: int, settings: dict[str, Parameter], pause_after: int, weights: str
) -> TrialPlan:
    trial = Trial(number=number, parameters=settings, parent=parent, seed=run.spec.config.seed)
    model, config = _trial_settings(run, trial)
    return TrialPlan(
        trial,
        model,
        config.model_copy(update={"checkpoint_epochs": 1, "checkpoint_steps": config.checkpoint_steps or 0}),
        checkpoints=f"{weights}/{number}",
        origin=f"{weights}/{parent}" if parent else "",
        pause_after=pause_after,
    )


def _trial_settings(run: SearchRun, trial: Trial) -> tuple[ModelSpec, TrainConfig]:
    """Model and training settings of a trial; of a population's member with all changes over its ancestry."""
    spec = run.spec
    if run.tuning.method != "pbt":
        return apply_settings(spec.model, spec.config, trial.parameters)
    first, changes = trace_changes(run.store.ended_trials(), trial)
    return apply_settings(spec.model, spec.config, {**first, "changes": changes})


def _select(run: SearchRun) -> list[Trial]:
    """The finalists, or the best trial if none are requested."""
    trials = [trial for trial in run.store.ended_trials() if trial.stage == "search"]
    if not rank_trials(trials, run.metric):
        reason = next((trial.error for trial in trials if trial.error), "no trial completed an epoch")
        raise RayloopError("rayloop.search_without_result", reason=reason)
    if run.tuning.method == "pbt":
        # Only members that finished training can be repeated.
        furthest = max(trial.epochs for trial in trials if trial.has_result)
        trials = [trial for trial in trials if trial.epochs == furthest]
    return select_finalists(trials, run.metric, run.tuning.finalists if run.tuning.finalist_seeds else 1)


def _plan_repeats(run: SearchRun, finalists: Sequence[Trial]) -> list[TrialPlan]:
    """Each finalist under each new seed."""
    tuning, plans = run.tuning, list[TrialPlan]()
    rounds = len(_pauses(run.spec.config.epochs, tuning.exchange_epochs)) if tuning.method == "pbt" else 1
    for trial in finalists:
        model, config = _trial_settings(run, trial)
        for seed in range(config.seed + 1, config.seed + 1 + tuning.finalist_seeds):
            number = tuning.trials * rounds + len(plans) + 1
            repeat = Trial(number=number, parameters=trial.parameters, stage="finalist", seed=seed, parent=trial.number)
            plans.append(TrialPlan(repeat, model, config.model_copy(update={"seed": seed})))
    return plans


def _result(run: SearchRun, finalists: Sequence[Trial], seconds: float) -> TuneResult:
    trials, metric = run.store.ended_trials(), run.metric
    results = rank_finalists(finalists, (trial for trial in trials if trial.stage == "finalist"), metric)
    best = next((t for t in finalists if results and t.number == results[0].trial), finalists[0])
    model, config = _trial_settings(run, best)
    return TuneResult(tuple(trials), best, model, config, metric.name, seconds, results, metric.direction)
