"""A search in MLflow: one run with every trial nested in it, and a page that shows them together."""

from __future__ import annotations

import json
import time

from cluster.fingerprint import json_fingerprint
from cluster.registry import Registry, Run
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from trainers.config import TuneConfig
from trainers.loop.trainer import FitRequest
from trainers.tuning.report import render_search
from trainers.tuning.search import search
from trainers.tuning.trial import Trial, TuneResult
from trainers.tuning.trial_store import TrialStore

PAGE = "search.html"
_PATH = "search"


class TrialRunLogger:
    """Logs each trial that has ended as a run nested in the search's run, once."""

    def __init__(self, registry: Registry, experiment: str, parent: Run, metric: str, known: set[str]) -> None:
        self._registry, self._experiment, self._parent = registry, experiment, parent
        self._metric, self._known = metric, known

    def __call__(self, trial: Trial) -> None:
        name = f"trial {trial.number}"
        if name in self._known:
            return
        with self._registry.run(self._experiment, name, self._parent.id) as run:
            run.log_parameters({**trial.parameters, "seed": trial.seed})
            first = trial.epochs - len(trial.curve) + 1
            curve = {first + i: value for i, value in enumerate(trial.curve)}
            figures = {self._metric: trial.metric, "epochs": float(trial.epochs), "seconds": trial.seconds}
            run.log_metric_series({f"best_{self._metric}": curve, **{n: {0: value} for n, value in figures.items()}})
            run.set_tags({"rayloop.status": trial.status, "rayloop.stage": trial.stage, **_origin(trial)})
            run.failed = trial.status == "failed"
        self._known.add(name)


def run_search(context: ProjectContext, frame: FrameView, tuning: TuneConfig, metric: str) -> TuneResult:
    """Run the project's search. One of the same data, code and settings is resumed if killed, reused if finished."""
    project, registry, key = context.project, context.registry, _key(context, frame, tuning)
    folder = f"{context.checkpoints}/searches/{key[:16]}"
    again = TrialStore(folder).has_trials
    with registry.run(project.name, "search", key=key, resume=again) as run:
        known = registry.child_run_names(project.name, run) if again else set()
        result = search(
            FitRequest(project.model, project.train, project.task, frame.encoder),
            tuning,
            frame.data,
            context.progress,
            on_trial=TrialRunLogger(registry, project.name, run, metric, known),
            folder=folder,
        )
        _log(context, run, result)
    return result


def _log(context: ProjectContext, run: Run, result: TuneResult) -> None:
    """Log the best trial and the page; also for a search that was reused."""
    text = render_search(context.project.name, result, time.time())
    trials = json.dumps([trial.model_dump(mode="json") for trial in result.trials], indent=1)
    run.log_texts({f"{_PATH}/{PAGE}": text, f"{_PATH}/trials.json": trials})
    run.log_parameters(result.best.parameters)
    figures = {f"best_{result.metric}": result.best.metric, "trials": float(len(result.trials))}
    if result.finalists:
        figures |= {
            f"mean_{result.metric}": result.finalists[0].mean,
            f"spread_{result.metric}": result.finalists[0].spread,
        }
    run.log_metrics(figures)
    context.progress(f"{result.summary}; all trials: {context.write(PAGE, text)}")


def _origin(trial: Trial) -> dict[str, str]:
    return ({"rayloop.from": f"trial {trial.parent}"} if trial.parent else {}) | (
        {"rayloop.error": trial.error} if trial.error else {}
    )


def _key(context: ProjectContext, frame: FrameView, tuning: TuneConfig) -> str:
    """Hash of everything that determines a trial's result."""
    project = context.project
    body = {
        "snapshot": [frame.snapshot.table, frame.snapshot.id],
        "features": project.features.content_hash,
        "task": project.task.model_dump(mode="json"),
        "model": project.model.key,
        "train": project.train.model_dump(mode="json"),
        "tune": tuning.model_dump(mode="json"),
        "code": context.code_version,
        **frame.weights_key,
    }
    return json_fingerprint(body)
