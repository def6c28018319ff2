"""What to train, how, and over what to search. Values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from cluster.errors import ProjectError
from cluster.values import Frozen

Parameter = bool | int | float | str | tuple[int, ...] | tuple[str, ...]
Schedule = Literal["onecycle", "cosine", "constant"]
Precision = Literal["float32", "bf16", "fp16"]

MEBIBYTE = 1 << 20
SCORE_ROWS = 16_384
"""Rows that a model scores at a time."""


class Change(Frozen):
    """Settings that hold from the end of epoch ``after`` on; None leaves one as it is."""

    after: int = Field(ge=1)
    lr: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    clip_norm: float | None = Field(default=None, ge=0)


CHANGEABLE = ("lr", "weight_decay", "clip_norm")
"""What may change while a model trains."""


class TrainConfig(Frozen):
    """How to train. ``batch_size`` counts the rows of one step over all workers together.

    ``warmup`` is the share of all steps in which "onecycle" and "cosine" raise the learning rate to ``lr``.
    ``clip_norm`` bounds the gradient's norm, 0 leaves it alone. ``patience`` is the number of epochs without a
    better validation metric after which training stops, 0 never. ``threads`` is per worker, on a CPU; weights
    repeat bit for bit for the same seed, data, workers and threads. ``gpu="auto"`` takes what the cluster has.
    Encoded rows of up to ``cache_mib`` are held in memory and shuffled as a whole every epoch; more are
    streamed and shuffled within a buffer of ``shuffle_rows``. ``quantize="int8"`` serves the model with int8 weights if
    it passes the gate with them, and as it is otherwise. ``calibrate="temperature"`` divides the logits by the number that
    suits the validation rows best, so that probabilities mean what they say.

    ``strategy="fsdp"`` shards parameters, gradients and optimiser over the workers, for models that one device cannot hold.
    ``precision`` is that of the forward pass (autocast); weights stay float32. ``compile`` runs the module through
    torch.compile. ``accumulate`` computes a step in so many parts, one after the other, to fit it into memory; the step
    remains the same, but for batch norm, which sees a part at a time. ``class_weights``: "balanced" gives every class the same say (multi-label: rows with and without each
    label), or one weight a class; scores are then no longer probabilities of the training rows.

    A checkpoint is written every ``checkpoint_steps`` steps, 0 never, and at the end of every ``checkpoint_epochs`` epochs, 0 never.
    A worker that dies is replaced, and training goes on from the newest one, up to ``restarts`` times. ``min_workers`` lets
    training go on with fewer than ``workers`` when a node leaves, and take more, up to ``workers``, when one comes; 0 waits
    for all. The cluster is looked at every ``resize_s`` seconds.

    ``changes`` are settings that hold from a later epoch on, as population-based training finds them; the schedule goes on.
    """

    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=2048, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    schedule: Schedule = "onecycle"
    warmup: float = Field(default=0.3, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, ge=0)
    patience: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=2, ge=1)
    threads: int = Field(default=1, ge=1)
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpu: bool | Literal["auto"] = "auto"
    cache_mib: int = Field(default=1024, ge=0)
    shuffle_rows: int = Field(default=100_000, ge=0)
    quantize: Literal["none", "int8"] = "none"
    calibrate: Literal["none", "temperature"] = "none"
    strategy: Literal["ddp", "fsdp"] = "ddp"
    precision: Precision = "float32"
    compile: bool = False
    accumulate: int = Field(default=1, ge=1)
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    checkpoint_steps: int = Field(default=0, ge=0)
    checkpoint_epochs: int = Field(default=1, ge=0)
    restarts: int = Field(default=2, ge=0)
    min_workers: int = Field(default=0, ge=0)
    resize_s: float = Field(default=30.0, gt=0)
    changes: tuple[Change, ...] = ()

    def during(self, epoch: int) -> TrainConfig:
        """The settings of one epoch, the first of which is 1."""
        passed = [c.model_dump(include=set(CHANGEABLE), exclude_none=True) for c in self.changes if c.after < epoch]
        return self.model_copy(update={name: value for change in passed for name, value in change.items()})

    @model_validator(mode="after")
    def _settings_that_go_together(self) -> Self:
        if self.strategy == "fsdp" and self.precision == "fp16":
            raise ProjectError("precision='fp16' scales its loss, which strategy='fsdp' does not know", "use bf16")
        if self.min_workers > self.workers:
            raise ProjectError(
                f"min_workers={self.min_workers} is more than workers={self.workers}", "workers is the most there are"
            )
        return self

    @model_validator(mode="after")
    def _a_batch_feeds_every_worker(self) -> Self:
        if self.batch_size < self.workers:
            raise ProjectError(
                f"batch_size={self.batch_size} does not give each of workers={self.workers} a row",
                "raise batch_size or lower workers",
            )
        return self


class ModelSpec(Frozen):
    """A built-in kind, or a function ``build(inputs: InputSpec, task: Task, **parameters) -> torch.nn.Module``.

    The function is pickled by Ray within the job, and never needed to serve.
    """

    build: Literal["linear", "mlp", "ft_transformer"] | Callable[..., Any] = "mlp"
    parameters: dict[str, Parameter] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.build if isinstance(self.build, str) else getattr(self.build, "__qualname__", repr(self.build))

    @property
    def key(self) -> list[object]:
        """What tells it from others, as JSON."""
        return [self.name, {name: str(value) for name, value in self.parameters.items()}]


class Uniform(Frozen):
    """A float between ``low`` and ``high``."""

    low: float
    high: float


class LogUniform(Frozen):
    """A float whose logarithm is uniform between those of ``low`` and ``high``."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)


class IntRange(Frozen):
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int


class Choice(Frozen):
    """One of ``options``."""

    options: tuple[Parameter, ...] = Field(min_length=1)


Space = Uniform | LogUniform | IntRange | Choice


class TuneConfig(Frozen):
    """How to search. ``space`` maps fields of TrainConfig, or parameters of the model, to what may be chosen.

    The first trial takes the base values as they stand, where they lie in the space. ``minutes`` ends the search
    early, 0 never, and leaves finalists their time. ASHA lets a trial past ``grace_epochs`` * ``reduction`` ** i epochs only if it is among the best
    1 / ``reduction`` there. A trial with one worker trains in the trial's own process; with several it is a
    data-parallel Ray Train job.

    The best ``finalists`` settings are trained ``finalist_seeds`` times more, each time under a seed that the search has not
    seen, and the best mean wins; 0 takes the best trial as it is.

    ``method="pbt"`` trains ``trials`` models side by side, and every ``exchange_epochs`` epochs lets the worst go on from the weights of the
    best with changed settings; of TrainConfig it searches lr, weight_decay and clip_norm, which may change while a model trains.
    """

    space: dict[str, Space]
    trials: int = Field(default=8, ge=1)
    max_concurrent: int = Field(default=2, ge=1)
    minutes: float = Field(default=0.0, ge=0)
    grace_epochs: int = Field(default=1, ge=1)
    reduction: int = Field(default=3, ge=2)
    workers_per_trial: int = Field(default=1, ge=1)
    cpus_per_trial: float = Field(default=1.0, gt=0)
    finalists: int = Field(default=3, ge=1)
    finalist_seeds: int = Field(default=0, ge=0)
    method: Literal["tpe", "pbt"] = "tpe"
    exchange_epochs: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _a_population_can_change(self) -> Self:
        if self.method == "pbt" and (fixed := sorted(set(self.space) - set(CHANGEABLE))):
            raise ProjectError(
                f"method='pbt' cannot search {', '.join(fixed)}, which cannot change while a model trains",
                f"search {', '.join(CHANGEABLE)}, or use method='tpe'",
            )
        if self.method == "pbt" and self.trials < 2:
            raise ProjectError("method='pbt' with one trial has nobody to learn from", "raise trials")
        return self

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        for name, space in self.space.items():
            if not isinstance(space, Choice) and space.low >= space.high:
                raise ProjectError(f"search space {name!r}: low={space.low} is not below high={space.high}")
        return self


def applied(spec: ModelSpec, config: TrainConfig, chosen: Mapping[str, Any]) -> tuple[ModelSpec, TrainConfig]:
    """Set ``chosen``: fields of TrainConfig there, everything else as model parameters. Raises ProjectError."""
    fields = {name: value for name, value in chosen.items() if name in TrainConfig.model_fields}
    parameters = {name: value for name, value in chosen.items() if name not in fields}
    try:
        return (
            ModelSpec(build=spec.build, parameters={**spec.parameters, **parameters}),
            TrainConfig(**{**config.model_dump(), **fields}),
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ProjectError(f"search space: {place}={first['input']!r}: {first['msg']}") from error
