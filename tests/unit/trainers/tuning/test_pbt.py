"""Exploitation in a population; a chain of checkpoints with changed settings equals one training with the changes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ProjectError
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from tests.factories.trainers.resumable import NoisyModel, encoded_parts
from trainers.config import Choice, ConfigChange, IntRange, LogUniform, ModelSpec, TrainConfig, TuneConfig, Uniform
from trainers.data.batches import MemoryLoader, MemoryValidationLoader
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpointer
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_events import EpochResult, TrainResult
from trainers.loop.train_spec import TrainSpec
from trainers.metrics import PrimaryMetric
from trainers.tuning import pbt, search_spaces
from trainers.tuning.trial import Trial

AUC = PrimaryMetric("auc", "max")
SPACES = {
    "lr": LogUniform(low=1e-4, high=1e-1),
    "drop": Uniform(low=0.0, high=0.5),
    "n": IntRange(low=1, high=9),
    "kind": Choice(options=("a", "b", "c")),
}


def _members(*metrics: float) -> list[Trial]:
    return [
        Trial(number=i, parameters={"lr": i / 100, "drop": 0.1, "n": 3, "kind": "b"}, metric=metric, status="finished")
        for i, metric in enumerate(metrics, start=1)
    ]


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_settings_stay_in_their_space_and_repeat_for_a_seed(seed: int, generation: int) -> None:
    first = pbt.initial_population(SPACES, {}, 5, seed)
    members = [Trial(number=i + 1, parameters=each, metric=i / 10, status="finished") for i, each in enumerate(first)]
    after = pbt.exploit(members, SPACES, AUC, seed, generation)
    for each in [*first, *(settings for _, settings in after)]:
        assert search_spaces.encode(SPACES, each)
        assert isinstance(each["n"], int)
        assert isinstance(each["lr"], float)
    assert first == pbt.initial_population(SPACES, {}, 5, seed)
    assert after == pbt.exploit(members, SPACES, AUC, seed, generation)


def test_initial_population_starts_with_the_base_values() -> None:
    start = {"lr": 0.01, "drop": 0.1, "n": 2, "kind": "a"}
    assert pbt.initial_population(SPACES, start, 3, 0)[0] == start
    assert len(pbt.initial_population(SPACES, start, 3, 0)) == 3


def test_exploit_replaces_the_worst_quarter_by_the_best() -> None:
    members = _members(0.9, 0.5, 0.8, 0.7, 0.6, 0.4, 0.65, 0.95)
    after = pbt.exploit(members, SPACES, AUC, 0, 1)
    parents = [parent for parent, _ in after]
    assert [parents[i] for i in (0, 2, 3, 4, 6, 7)] == [1, 3, 4, 5, 7, 8]
    assert {parents[1], parents[5]} <= {1, 8}
    assert [settings for i, (_, settings) in enumerate(after) if i not in (1, 5)] == [
        m.parameters for i, m in enumerate(members) if i not in (1, 5)
    ]
    assert all(after[i][1] != members[parents[i] - 1].parameters for i in (1, 5))


def test_exploit_replaces_the_worse_of_two_and_failed_members() -> None:
    assert [parent for parent, _ in pbt.exploit(_members(0.5, 0.6), SPACES, AUC, 0, 1)] == [2, 2]
    after = pbt.exploit(_members(math.nan, 0.6, math.nan, math.nan), SPACES, AUC, 0, 1)
    assert [parent for parent, _ in after] == [2, 2, 2, 2]
    assert pbt.exploit(_members(math.nan, math.nan), SPACES, AUC, 0, 1) == []


def test_explore_moves_numbers_by_a_fifth_and_choices_to_a_neighbor() -> None:
    random, moved = np.random.default_rng(0), []
    start = {"lr": 0.01, "drop": 0.2, "n": 5, "kind": "b"}
    for _ in range(200):
        moved.append(pbt.explore(start, SPACES, random))
    near = [settings["lr"] for settings in moved if settings["lr"] in (0.01 * 0.8, 0.01 * 1.2)]
    assert 0.65 < len(near) / 200 < 0.85
    assert {settings["kind"] for settings in moved} == {"a", "b", "c"}
    assert 4 in {settings["n"] for settings in moved}


def test_pbt_with_a_fixed_setting_is_refused() -> None:
    with raises(ProjectError, "project.pbt_fixed_setting", names=["batch_size", "hidden"]):
        TuneConfig(space={"hidden": Choice(options=((4,),)), "batch_size": IntRange(low=1, high=2)}, method="pbt")
    with raises(ProjectError, "project.pbt_too_few_trials"):
        TuneConfig(space={"lr": Uniform(low=1, high=2)}, method="pbt", trials=1)


def test_config_for_epoch_applies_changes() -> None:
    config = TrainConfig(
        lr=0.1, changes=(ConfigChange(after=1, lr=0.2, weight_decay=0.0), ConfigChange(after=3, lr=0.3))
    )
    assert [config.for_epoch(epoch).lr for epoch in (1, 2, 3, 4)] == [0.1, 0.2, 0.2, 0.3]
    assert [config.for_epoch(epoch).weight_decay for epoch in (1, 4)] == [1e-2, 0.0]
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config


def _train(
    config: TrainConfig, checkpoints: Checkpointer | None = None, until: int = 0
) -> tuple[TrainResult, list[EpochResult]]:
    train, validation, inputs = encoded_parts()
    feed, epochs = MemoryLoader(train, config.batch_size, config.seed), list[EpochResult]()
    job = TrainSpec(ModelSpec(build=NoisyModel), config, TASKS["binary"], inputs)
    out = train_loop.train(
        job,
        feed,
        MemoryValidationLoader(validation),
        ProcessGroup(),
        epochs.append,
        checkpointer=checkpoints,
        pause_after=until,
    )
    return out, epochs


def test_chain_of_checkpoints_equals_one_training_with_changes(tmp_path: Path) -> None:
    """What a population's winner has learned is what the final fit learns."""
    base = TrainConfig(epochs=4, batch_size=40, lr=1e-2, workers=1)
    folders = [str(tmp_path / name) for name in ("founder", "child", "grandchild")]
    first = (ConfigChange(after=1, lr=3e-2, weight_decay=0.5, clip_norm=0.1),)
    both = (*first, ConfigChange(after=3, lr=1e-3))
    _, epochs = _train(base, Checkpointer(folders[0]), until=1)
    assert [epoch.number for epoch in epochs] == [1]
    _, epochs = _train(base.model_copy(update={"changes": first}), Checkpointer(folders[1], folders[0]), until=3)
    assert [epoch.number for epoch in epochs] == [2, 3]
    line, epochs = _train(base.model_copy(update={"changes": both}), Checkpointer(folders[2], folders[1]))
    assert [epoch.number for epoch in epochs] == [4]
    whole, _ = _train(base.model_copy(update={"changes": both}))
    plain, _ = _train(base)
    assert all(np.array_equal(line.state[name], whole.state[name]) for name in whole.state)
    assert [epoch.loss for epoch in line.epochs] == [epoch.loss for epoch in whole.epochs]
    assert [epoch.loss for epoch in plain.epochs][1:] != [epoch.loss for epoch in whole.epochs][1:]
    assert plain.epochs[0].loss == whole.epochs[0].loss


def test_interrupted_member_resumes_from_its_own_checkpoint(
    tmp_path: Path,
) -> None:
    base = TrainConfig(epochs=4, batch_size=40, workers=1)
    origin, own = str(tmp_path / "origin"), str(tmp_path / "own")
    _train(base, Checkpointer(origin), until=1)
    before = sorted(path.name for path in Path(origin).iterdir())
    _train(base, Checkpointer(own, origin), until=2)
    out, epochs = _train(base, Checkpointer(own, origin), until=2)
    assert epochs == []
    assert [epoch.number for epoch in out.epochs] == [1, 2]
    assert sorted(path.name for path in Path(origin).iterdir()) == before
