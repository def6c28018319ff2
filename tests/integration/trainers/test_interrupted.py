"""The driver of a search is killed: what it had done is not done again. A population that is begun again ends alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.settings import Settings
from features.encoder import Encoder
from tests.factories.trainers import waiting
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.small_module import Small
from tests.factories.until import until
from trainers.config import LogUniform, ModelSpec, TrainConfig, TuneConfig
from trainers.data.datasets import TrainingData
from trainers.loop.trainer import FitRequest, fit
from trainers.tuning.search import search
from trainers.tuning.trial import Trial, TuneResult
from trainers.tuning.trial_store import TrialStore

# Ray Data warns about its own defaults.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]


def test_killed_search_does_not_repeat_ended_trials(cluster: Settings, tmp_path: Path) -> None:
    journal = f"{tmp_path}/journal"
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.factories.trainers.waiting", str(tmp_path)],
        env={**os.environ, **cluster.environment()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until_third_trial(driver, journal, str(tmp_path))
    finally:
        driver.kill()
        driver.wait()
    before, built = TrialStore(journal).ended_trials(), waiting.builds(str(tmp_path))
    assert [trial.number for trial in before] == [1, 2]
    [interrupted] = TrialStore(journal).interrupted_trials()
    (tmp_path / "go").touch()

    reported: list[Trial] = []
    result = waiting.run(str(tmp_path), reported)
    assert len(waiting.builds(str(tmp_path))) - len(built) == 1 + 2 + 4, "the search, two trials, four repeats"
    assert reported[:2] == before == list(result.trials[:2])
    assert [trial.number for trial in reported] == list(range(1, 9))
    assert result.trials[2].parameters == interrupted.parameters
    assert len({trial.parameters["lr"] for trial in result.trials[:4]}) == 4
    assert [len(s.values) for s in result.finalists] == [2, 2]
    assert result.best.number == result.finalists[0].trial
    assert result.finalists[0].mean >= result.finalists[1].mean
    assert {trial.seed for trial in result.trials[4:]} == {1, 2}

    built = waiting.builds(str(tmp_path))
    assert waiting.run(str(tmp_path), []).best == result.best
    assert len(waiting.builds(str(tmp_path))) - len(built) == 1, "nothing is left to train"


def _until_third_trial(driver: subprocess.Popen, journal: str, folder: str) -> None:
    def begun() -> bool:
        assert driver.poll() is None, "the search ended by itself"
        return len(waiting.builds(folder)) >= 4 and bool(TrialStore(journal).interrupted_trials())

    until(begun, "the third trial begins")


@pytest.mark.slow
def test_resumed_population_ends_the_same_and_its_winner_can_be_fitted(cluster: Settings, tmp_path: Path) -> None:
    table = frame(rows=300)
    encoder, data = Encoder.fit(COLUMNS, part(table, "train")), TrainingData(table)
    base = TrainConfig(epochs=3, batch_size=64, workers=1, schedule="constant", lr=1e-4)
    tuning = TuneConfig(
        space={"lr": LogUniform(low=1e-4, high=3e-2)},
        trials=2,
        method="pbt",
        cpus_per_trial=0.5,
    )

    def run() -> TuneResult:
        return search(
            FitRequest(ModelSpec(build=Small), base, TASKS["binary"], encoder),
            tuning,
            data,
            lambda line: None,
            folder=str(tmp_path),
        )

    result = run()
    assert [trial.epochs for trial in result.trials] == [1, 1, 2, 2, 3, 3]
    assert all(trial.status == "finished" for trial in result.trials)
    assert result.config.changes or result.best.parameters == {"lr": result.config.lr}
    assert any(trial.parent for trial in result.trials)
    assert not (tmp_path / "weights").exists()
    # As if the driver had been killed in its second generation.
    for path in sorted(tmp_path.glob("*.json"))[3:]:
        path.unlink()
    again = run()
    assert [(t.number, t.parent, t.parameters, t.metric) for t in again.trials] == [
        (t.number, t.parent, t.parameters, t.metric) for t in result.trials
    ]
    fitted = fit(FitRequest(ModelSpec(build=Small), result.config, TASKS["binary"], encoder), data, lambda line: None)
    assert fitted.epochs[-1].best_so_far == result.best.metric
