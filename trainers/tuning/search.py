"""Search over declared spaces with Ray Tune: Optuna's TPE proposes and ASHA stops what does not keep up, or a population learns
from its best. The finalists are trained again under other seeds."""

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
from cluster.values import Task
from features.encoder import Encoder
from trainers import metrics
from trainers.config import ModelSpec, Parameter, TrainConfig, TuneConfig, applied
from trainers.data.datasets import TrainingData
from trainers.loop.checkpointer import Checkpoints
from trainers.loop.train_spec import Job
from trainers.loop.worker_group import no_room
from trainers.models import registry
from trainers.tuning import pbt, search_spaces
from trainers.tuning.trial import Trial, TuneResult, changes, finalists, ranked, standings
from trainers.tuning.trial_runner import OBJECTIVE, Plan, Stage
from trainers.tuning.trial_store import Journal

RANDOM_SHARE = 0.5

Progress = Callable[[str], None]
Watch = Callable[[Trial], None]


def search(
    spec: ModelSpec,
    base: TrainConfig,
    tuning: TuneConfig,
    task: Task,
    encoder: Encoder,
    data: TrainingData,
    progress: Progress = print,
    *,
    watch: Watch = lambda trial: None,
    folder: str = "",
) -> TuneResult:
    """Try ``tuning.trials`` settings. Raises ProjectError for a bad space, RayloopError when no trial succeeds.

    ``watch`` gets each trial when it has ended. A folder or URI for ``folder`` lets a search whose driver was killed go on when it
    is called again with the same arguments: trials that had ended are not run again, and ``watch`` hears of them first. It must
    be reachable from every node, is the caller's to remove, and belongs to this search alone.
    """
    started = time.perf_counter()
    registry.check_parameters(spec, [name for name in tuning.space if name not in TrainConfig.model_fields])
    encoded = data.encoded(encoder, task, base.cache_mib)
    registry.check(spec, encoded.inputs, task)
    with ExitStack() as stack:
        weights = folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="rayloop-search-"))
        job, metric = Job(spec, base, task, encoded.inputs), metrics.primary(task)
        stage = Stage(job, tuning, encoded, metric, Journal(folder), progress, watch)
        cpus = base.cpus_per_worker if tuning.workers_per_trial > 1 else tuning.cpus_per_trial
        if told := no_room(tuning.workers_per_trial, cpus):
            progress(told)
        _tell_of(stage)
        (_generations if tuning.method == "pbt" else _proposals)(stage, f"{weights}/weights")
        chosen = _chosen(stage)
        stage.carry_out(_repeats(stage, chosen))
        # A population's checkpoints are of use to nobody any more.
        Checkpoints(f"{weights}/weights").clear()
    return _result(stage, chosen, time.perf_counter() - started)


def _tell_of(stage: Stage) -> None:
    """What an interrupted search had done."""
    ended = stage.journal.ended()
    if ended:
        stage.progress(f"goes on with a search that was begun before: {len(ended)} trials have ended")
    for trial in ended:
        stage.watch(trial)


def _proposals(stage: Stage, weights: str) -> None:
    """Trials one after the other, each proposed by what is known by then."""
    ended = {trial.number for trial in stage.journal.ended()}
    numbers = [number for number in range(1, stage.tuning.trials + 1) if number not in ended]
    config, tuning = stage.job.config, stage.tuning
    asha = ASHAScheduler(
        metric=OBJECTIVE,
        mode=stage.metric.direction,
        max_t=config.epochs,
        grace_period=min(tuning.grace_epochs, config.epochs),
        reduction_factor=tuning.reduction,
    )
    stage.propose(numbers, _searcher(stage), asha)


def _searcher(stage: Stage) -> OptunaSearch:
    """Told of trials that have ended; proposes first what was interrupted, or, to begin with, the base values."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuning, ended = stage.tuning, stage.journal.ended()
    known = [trial.parameters for trial in stage.journal.interrupted() if trial.stage == "search"]
    if not ended and not known:
        known = [search_spaces.start(tuning.space, stage.job.spec, stage.job.config)]
    searcher = OptunaSearch(
        space={name: search_spaces.distribution(space) for name, space in tuning.space.items()},
        metric=OBJECTIVE,
        mode=stage.metric.direction,
        sampler=TPESampler(
            seed=_seed(tuning.seed, len(ended)), n_startup_trials=max(1, int(RANDOM_SHARE * tuning.trials))
        ),
        points_to_evaluate=[point for each in known if (point := search_spaces.encoded(tuning.space, each))] or None,
    )
    for trial in ended:
        if trial.able:
            searcher.add_evaluated_point(search_spaces.encoded(tuning.space, trial.parameters), trial.metric)
    return searcher


def _seed(seed: int, ended: int) -> int:
    """Another one after an interruption: the same would propose again what it has proposed."""
    return int(np.random.SeedSequence([seed, ended]).generate_state(1)[0]) if ended else seed


def _generations(stage: Stage, weights: str) -> None:
    """A population that trains ``exchange_epochs`` at a time."""
    tuning, epochs = stage.tuning, stage.job.config.epochs
    size, first = tuning.trials, search_spaces.start(tuning.space, stage.job.spec, stage.job.config)
    settings = [(0, each) for each in pbt.founders(tuning.space, first, size, tuning.seed)]
    for generation, until in enumerate(_pauses(epochs, tuning.exchange_epochs)):
        numbers = range(generation * size + 1, (generation + 1) * size + 1)
        plans = [_member(stage, *each, until, weights) for each in zip(numbers, settings, strict=True)]
        stage.carry_out(plans, stage.left)
        members = [trial for trial in stage.journal.ended() if trial.number in numbers]
        if len(members) < size or stage.left <= 0:
            return
        settings = pbt.successors(members, tuning.space, stage.metric, tuning.seed, generation + 1)
        if not settings:
            return


def _pauses(epochs: int, every: int) -> list[int]:
    """The epochs after which a population pauses; the last one is the end."""
    return [*range(every, epochs, every), epochs]


def _member(stage: Stage, number: int, given: tuple[int, dict[str, Parameter]], until: int, weights: str) -> Plan:
    parent, parameters = given
    trial = Trial(number=number, parameters=parameters, parent=parent, seed=stage.job.config.seed)
    spec, config = _settings(stage, trial)
    return Plan(
        trial,
        spec,
        config.model_copy(update={"checkpoint_epochs": 1}),
        weights=f"{weights}/{number}",
        origin=f"{weights}/{parent}" if parent else "",
        until=until,
    )


def _settings(stage: Stage, trial: Trial) -> tuple[ModelSpec, TrainConfig]:
    """What a trial of the search trains; of a population, with all that changed on the way to it."""
    job = stage.job
    if stage.tuning.method != "pbt":
        return applied(job.spec, job.config, trial.parameters)
    first, made = changes(stage.journal.ended(), trial)
    return applied(job.spec, job.config, {**first, "changes": made})


def _chosen(stage: Stage) -> list[Trial]:
    """The finalists, or the one best trial where none are asked for. Raises RayloopError when no trial gave a result."""
    trials = [trial for trial in stage.journal.ended() if trial.stage == "search"]
    if not ranked(trials, stage.metric):
        reasons = [trial.error for trial in trials if trial.error]
        raise RayloopError(f"no trial gave a result: {reasons[0] if reasons else 'none ran to the end of an epoch'}")
    if stage.tuning.method == "pbt":
        # Only who has trained to the end can be trained again to it.
        furthest = max(trial.epochs for trial in trials if trial.able)
        trials = [trial for trial in trials if trial.epochs == furthest]
    return finalists(trials, stage.metric, stage.tuning.finalists if stage.tuning.finalist_seeds else 1)


def _repeats(stage: Stage, chosen: Sequence[Trial]) -> list[Plan]:
    """Each finalist under each seed that the search has not seen."""
    tuning, plans = stage.tuning, list[Plan]()
    rounds = len(_pauses(stage.job.config.epochs, tuning.exchange_epochs)) if tuning.method == "pbt" else 1
    for trial in chosen:
        spec, config = _settings(stage, trial)
        for seed in range(config.seed + 1, config.seed + 1 + tuning.finalist_seeds):
            number = tuning.trials * rounds + len(plans) + 1
            repeat = Trial(number=number, parameters=trial.parameters, stage="finalist", seed=seed, parent=trial.number)
            plans.append(Plan(repeat, spec, config.model_copy(update={"seed": seed})))
    return plans


def _result(stage: Stage, chosen: Sequence[Trial], seconds: float) -> TuneResult:
    trials = stage.journal.ended()
    found = standings(chosen, (trial for trial in trials if trial.stage == "finalist"), stage.metric)
    best = next((t for t in chosen if found and t.number == found[0].trial), chosen[0])
    spec, config = _settings(stage, best)
    metric = stage.metric
    return TuneResult(tuple(trials), best, spec, config, metric.name, seconds, found, metric.direction)
