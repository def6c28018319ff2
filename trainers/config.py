"""Settings of a model, its training, and a hyperparameter search. Values only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from cluster.errors import ProjectError
from cluster.values import Frozen
from features.python_models.bundle import PythonRuntime

Parameter = bool | int | float | str | tuple[int, ...] | tuple[str, ...]
Schedule = Literal["onecycle", "cosine", "constant"]
Precision = Literal["float32", "bf16", "fp16"]
TREES = ("lightgbm", "xgboost")
"""Kinds of models that are boosted trees."""
SKLEARN: Literal["sklearn"] = "sklearn"
"""Kind of a model that is an estimator of scikit-learn, fitted in one go."""
IMPORTED: Literal["imported"] = "imported"
"""Kind of a model that was trained elsewhere."""
PYTHON = "python"
"""Name of a Python model in a recipe."""
AUTO: Literal["auto"] = "auto"
"""Kind of a model that a race of other kinds chooses."""
AUTO_MINUTES = 10.0
"""Budget of a race, unless the project names another one."""

MEBIBYTE = 1 << 20
SCORE_BATCH_ROWS = 16_384
"""Rows that a model scores in one call."""


class ConfigChange(Frozen):
    """Settings that apply from the epoch after ``after`` on; None keeps a setting unchanged."""

    after: int = Field(ge=1)
    lr: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    clip_norm: float | None = Field(default=None, ge=0)


MUTABLE_FIELDS = ("lr", "weight_decay", "clip_norm")
"""Settings that may change during training."""


class Oversample(Frozen):
    """Synthetic rows of rare classes (SMOTE, Chawla et al. 2002), for training only."""

    ratio: float = Field(default=1.0, gt=0, le=1)
    """Rows of each class to reach, as a share of the rows of the most frequent one."""
    neighbors: int = Field(default=5, ge=1)
    """Nearest rows of the same class, toward one of which a synthetic row lies."""


class TrainConfig(Frozen):
    """How to train a model.

    Weights repeat bit for bit for the same seed, data, workers and threads.
    """

    epochs: int = Field(default=3, ge=1)
    """Passes over the training rows."""
    batch_size: int = Field(default=2048, ge=1)
    """Rows of one step, over all workers together."""
    lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Weight decay of matrices; biases, norms and other vectors have none."""
    schedule: Schedule = "onecycle"
    """Learning rate over all steps; see ``loop.train_step.schedule_factor``."""
    warmup: float = Field(default=0.3, ge=0, lt=1)
    """Share of all steps in which "onecycle" and "cosine" raise the learning rate to ``lr``."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Upper bound of the gradient's norm; 0 disables clipping."""
    patience: int = Field(default=0, ge=0)
    """Epochs without a better validation metric after which training stops; 0 never stops early. Of boosted trees:
    rounds; 0 stops after 50."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, dropout and shuffling."""
    workers: int = Field(default=2, ge=1)
    """Data-parallel workers. Trees are trained in one process, with the CPUs and threads of all workers."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of each worker."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    """CPUs that Ray reserves for each worker."""
    gpu: bool | Literal["auto"] = "auto"
    """Whether workers use GPUs; "auto" uses those that the cluster has."""
    cache_mib: int = Field(default=1024, ge=0)
    """Size up to which encoded rows stay in memory, shuffled as a whole every epoch; larger data are streamed."""
    shuffle_rows: int = Field(default=100_000, ge=0)
    """Rows of the shuffle buffer of streamed data."""
    quantize: Literal["none", "int8"] = "none"
    """With "int8", serves the model with int8 weights if that version passes the gate, and unquantized otherwise."""
    calibrate: Literal["none", "temperature"] = "none"
    """With "temperature", divides the logits by the value that minimizes the validation loss (temperature scaling)."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With "fsdp", shards parameters, gradients and optimizer state, for models that do not fit on one device."""
    precision: Precision = "float32"
    """Precision of the forward pass (autocast); weights stay float32."""
    compile: bool = False
    """Whether to compile the module with torch.compile."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches per step, to save memory. The step stays the same, except that batch norm sees one at a time."""
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    """Weight of each class in the loss. "balanced" gives every class the same total weight (multi-label: rows with and
    without each label). With weights, scores are no longer probabilities of the training rows."""
    minority: Oversample | None = Field(default=None, exclude_if=lambda minority: minority is None)
    """Synthetic training rows of rare classes; None adds none. Scores stay probabilities of the true rows."""
    noise: float = Field(default=0.0, ge=0, exclude_if=lambda noise: not noise)
    """Gaussian noise on the numbers of training rows, in standard deviations of each column. Modules see new noise in
    every step, trees and estimators noise that is drawn once."""
    checkpoint_steps: int | None = Field(default=None, ge=0)
    """Steps between checkpoints; 0 writes none within epochs. By default a worker that dies costs at most 4 % of all
    steps, or one step."""
    checkpoint_epochs: int = Field(default=1, ge=0)
    """Epochs between checkpoints; 0 writes none at the end of epochs."""
    restarts: int = Field(default=2, ge=0)
    """How many times training restarts from the newest checkpoint after a worker died."""
    min_workers: int = Field(default=0, ge=0)
    """Elastic training: fewest workers to continue with when a node leaves, up to ``workers``; 0 waits for all."""
    resize_s: float = Field(default=30.0, gt=0)
    """Seconds between checks of whether the number of workers can change."""
    changes: tuple[ConfigChange, ...] = ()
    """Settings that change after an epoch, as found by population-based training; the schedule continues."""

    def checkpoint_interval(self, steps: int) -> int:
        """Steps between checkpoints of a training of so many steps; 0: none within epochs."""
        return max(1, steps // 25) if self.checkpoint_steps is None else self.checkpoint_steps

    def for_epoch(self, epoch: int) -> TrainConfig:
        """Settings of one epoch; the first is 1."""
        past = [c.model_dump(include=set(MUTABLE_FIELDS), exclude_none=True) for c in self.changes if c.after < epoch]
        return self.model_copy(update={name: value for change in past for name, value in change.items()})

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.strategy == "fsdp" and self.precision == "fp16":
            raise ProjectError("project.unsupported_precision", precision=self.precision, strategy=self.strategy)
        if self.min_workers > self.workers:
            raise ProjectError("project.min_workers_above_workers", min_workers=self.min_workers, workers=self.workers)
        if self.minority is not None and self.class_weights != "none":
            raise ProjectError("project.minority_with_class_weights", weights=self.class_weights)
        if self.batch_size < self.workers:
            raise ProjectError("project.batch_smaller_than_workers", batch_size=self.batch_size, workers=self.workers)
        return self


class ModelSpec(Frozen):
    """Kind of a model and its parameters."""

    build: (
        Literal["linear", "mlp", "ft_transformer", "lightgbm", "xgboost", "sklearn", "imported", "auto"]
        | Callable[..., Any]
    ) = "mlp"
    """A built-in kind; "imported", for the model that ``rayloop import`` took; "auto", for the best that a race of the
    kinds finds in ``minutes``; or a function
    ``build(inputs: InputSpec, task: Task, **parameters) -> torch.nn.Module``. Ray pickles the function within the job;
    serving does not need it."""
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    """Keyword arguments of ``build``; the others keep their defaults. Of trees: trainers/trees/parameters.py. Of
    "sklearn": ``estimator``, a name of trainers/estimators/catalog.py, and the estimator's own parameters. Of "auto":
    trainers/selection/auto_parameters.py."""
    minutes: float = Field(default=AUTO_MINUTES, gt=0)
    """Of "auto": wall-clock minutes after which the race ends."""

    @model_validator(mode="after")
    def _check_minutes(self) -> Self:
        if self.minutes != AUTO_MINUTES and not self.is_auto:
            raise ProjectError("project.minutes_not_for_model", model=self.name)
        return self

    @property
    def is_module(self) -> bool:
        """Whether it is a torch module, and not trained by a library of its own."""
        return self.build not in (*TREES, SKLEARN, IMPORTED, AUTO) and not self.is_python

    @property
    def is_estimator(self) -> bool:
        """Whether it is an estimator of scikit-learn."""
        return self.build == SKLEARN

    @property
    def is_auto(self) -> bool:
        """Whether a race of other kinds chooses it."""
        return self.build == AUTO

    @property
    def is_imported(self) -> bool:
        """Whether it was trained elsewhere."""
        return self.build == IMPORTED

    @property
    def is_python(self) -> bool:
        """Whether it is a class that scores rows itself."""
        return isinstance(self, PythonModel)

    @property
    def is_fixed(self) -> bool:
        """Whether rayloop does not train it."""
        return self.is_imported or self.is_python

    @property
    def name(self) -> str:
        """Name of the built-in kind or of the function."""
        return self.build if isinstance(self.build, str) else getattr(self.build, "__qualname__", repr(self.build))

    @property
    def key(self) -> list[object]:
        """JSON value that identifies the model."""
        return [self.name, {name: str(value) for name, value in self.parameters.items()}]


class PythonModel(PythonRuntime, ModelSpec):
    """A class of the project's code that scores rows itself; rayloop does not train it.

    ``load(self, files: pathlib.Path)`` is called once, before ``predict(self, rows: pyarrow.RecordBatch)``, which
    returns scores (cluster.values.Task) as an array of NumPy or Arrow. docs/python-models.md describes both.
    """

    build: type[Any]
    """The class."""
    files: str = ""
    """File, or folder, of the model's files, beside the project's module; empty: it has none."""

    @model_validator(mode="after")
    def _check_class(self) -> Self:
        missing = [name for name in ("load", "predict") if not callable(getattr(self.build, name, None))]
        if missing or self.build.__module__ == "__main__":
            raise ProjectError("project.python_class", name=self.name, missing=missing)
        try:
            inspect.signature(self.build).bind(**self.parameters)
        except TypeError as error:
            raise ProjectError("project.model_parameters", model=self.name, reason=str(error)) from error
        return self

    @property
    def runtime(self) -> PythonRuntime:
        """What it needs to run."""
        return PythonRuntime(**{name: getattr(self, name) for name in PythonRuntime.model_fields})


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
    """How to search for hyperparameters. The first trial takes the base values where the space contains them."""

    space: dict[str, Space]
    """Search space of each field of TrainConfig or parameter of the model."""
    trials: int = Field(default=8, ge=1)
    """Trials of the search; with "pbt" the size of the population."""
    max_concurrent: int = Field(default=2, ge=1)
    """Trials that run at the same time."""
    minutes: float = Field(default=0.0, ge=0)
    """Time budget of the search, without the finalists; 0 is unlimited."""
    grace_epochs: int = Field(default=1, ge=1)
    """Epochs before ASHA may stop a trial."""
    reduction: int = Field(default=3, ge=2)
    """ASHA continues the best 1 / ``reduction`` of trials past ``grace_epochs`` * ``reduction`` ** i epochs."""
    workers_per_trial: int = Field(default=1, ge=1)
    """1 trains in the trial's own process; more start a data-parallel Ray Train job per trial."""
    cpus_per_trial: float = Field(default=1.0, gt=0)
    """CPUs of a trial with one worker."""
    finalists: int = Field(default=3, ge=1)
    """Best settings that are trained again under ``finalist_seeds`` new seeds; the best mean wins."""
    finalist_seeds: int = Field(default=0, ge=0)
    """New seeds for each finalist; 0 selects the best trial by its result in the search."""
    method: Literal["tpe", "pbt"] = "tpe"
    """Algorithm. "tpe" proposes settings and stops weak trials early (ASHA). "pbt" trains a population whose worst
    members continue from the weights of the best with changed settings; it searches lr, weight_decay and clip_norm."""
    exchange_epochs: int = Field(default=1, ge=1)
    """Epochs that a population trains between exchanges."""
    seed: int = Field(default=0, ge=0)
    """Seed of the search."""

    @model_validator(mode="after")
    def _check_space(self) -> Self:
        fixed = sorted(set(self.space) - set(MUTABLE_FIELDS))
        if self.method == "pbt" and fixed:
            raise ProjectError("project.pbt_fixed_setting", names=fixed, choices=MUTABLE_FIELDS)
        if self.method == "pbt" and self.trials < 2:
            raise ProjectError("project.pbt_too_few_trials")
        for name, space in self.space.items():
            if not isinstance(space, Choice) and space.low >= space.high:
                raise ProjectError("project.empty_search_range", name=name, low=space.low, high=space.high)
        return self


def apply_settings(spec: ModelSpec, config: TrainConfig, settings: Mapping[str, Any]) -> tuple[ModelSpec, TrainConfig]:
    """Override fields of ``config``, and parameters of the model for all other names.

    Args:
        spec: The model.
        config: Base training settings.
        settings: Values by name, such as those of a trial.

    Returns:
        The model and the training settings with ``settings`` applied.

    Raises:
        ProjectError: A value is not valid for its field.
    """
    fields = {name: value for name, value in settings.items() if name in TrainConfig.model_fields}
    parameters = {name: value for name, value in settings.items() if name not in fields}
    try:
        return (
            ModelSpec(build=spec.build, parameters={**spec.parameters, **parameters}),
            TrainConfig(**{**config.model_dump(), **fields}),
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ProjectError(
            "project.setting_out_of_bounds", name=name, value=first["input"], reason=first["msg"]
        ) from error


class Prune(Frozen):
    """Remove the hidden units that contribute least, then train the smaller model.

    Whole units are removed, so that the model is smaller and faster on any hardware.
    """

    share: float = Field(gt=0, lt=1)
    """Share of the hidden units to remove."""
    epochs: int = Field(default=2, ge=1)
    """Epochs of the training that follows."""
    lr: float | None = Field(default=None, gt=0)
    """Learning rate of the training that follows; None is a tenth of the original one."""

    @property
    def description(self) -> str:
        """What the step does, for checks and progress lines."""
        return f"pruned by {self.share:.0%}"

    @property
    def key(self) -> list[object]:
        """What determines the result, as JSON."""
        return ["prune", self.model_dump(mode="json")]


class Distill(Frozen):
    """Train a smaller model on the trained model's outputs (Hinton et al. 2015, arXiv:1503.02531)."""

    student: ModelSpec
    """The smaller model."""
    weight: float = Field(default=0.7, gt=0, le=1)
    """Share of the loss that compares with the trained model's outputs; the rest compares with the labels."""
    temperature: float = Field(default=2.0, gt=0)
    """Softens the outputs of both models."""
    epochs: int | None = Field(default=None, ge=1)
    """Epochs of the student's training; None is those of the original training."""
    lr: float | None = Field(default=None, gt=0)
    """Learning rate of the student's training; None is that of the original training."""

    @property
    def description(self) -> str:
        """What the step does, for checks and progress lines."""
        return f"distilled into {self.student.name}"

    @property
    def key(self) -> list[object]:
        """What determines the result, as JSON."""
        return ["distill", self.student.key, self.model_dump(mode="json", exclude={"student"})]


Compression = Prune | Distill
