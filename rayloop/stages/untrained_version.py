"""Models that are not trained here, as candidates: imported ones, and Python models.

They are gated, carded and registered like any other.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import cast

import numpy as np

from cluster.errors import ProjectError
from cluster.values import Task
from features.encoder import Encoder
from features.python_models import bundle
from features.python_models.bundle import PythonRecord
from features.split import TRAIN, VALIDATION
from features.types import LABEL
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView, thin_rows
from rayloop.stages.candidate import CandidateBuild
from trainers import metrics
from trainers.config import IMPORTED, ModelSpec, PythonModel
from trainers.data.batches import EncodedRows
from trainers.data.encoding_task import label_array
from trainers.imports.imported_model import ImportedModel, ImportFacts, load_graph
from trainers.input_spec import InputSpec
from trainers.loop.trainer import TRAIN_SAMPLE_ROWS, FitResult
from trainers.loop.validation import measure
from trainers.scoring.python_scorer import PythonScorer

ALONE_ROWS = 32
"""Rows of a Python model that are scored one by one, to compare."""


def imported_spec(context: ProjectContext) -> ModelSpec:
    """Return the imported model; its parameters say where it comes from."""
    return ModelSpec(build=IMPORTED, parameters=dict(_facts(context).lineage))


def imported_encoder(context: ProjectContext) -> Encoder:
    """Return how the imported model's rows are encoded.

    Raises:
        ProjectError: The project's features are not those for which the model was imported.
    """
    facts, project = _facts(context), context.project
    if (facts.encoder.columns, facts.task) != (project.features.columns, project.task):
        raise ProjectError("project.import_outdated", project=project.name)
    return facts.encoder


def load_imported(build: CandidateBuild) -> FitResult:
    """Return the imported model as if it had been trained, measured on the rows of the frame."""
    frame, recipe, task = build.frame, build.recipe, build.context.project.task
    parts = {}
    for name in (TRAIN, VALIDATION):
        table = frame.rows_of(name)
        parts[name] = EncodedRows(**frame.encoder.encode(table), labels=label_array(table[LABEL]))
    train = parts[TRAIN]
    graph = load_graph(_folder(build.context), _facts(build.context))
    model = ImportedModel(graph)
    arrays = {"numbers": train.numbers, "codes": train.codes}
    return FitResult(
        spec=recipe.spec,
        config=recipe.config,
        task=task,
        encoder=frame.encoder,
        inputs=InputSpec.fit(frame.encoder, task, arrays, train.labels),
        state={ImportedModel.STATE: np.frombuffer(graph, np.uint8)},
        epochs=(),
        metrics=measure(model, task, parts[VALIDATION]),
        train_metrics=measure(model, task, train.thin(TRAIN_SAMPLE_ROWS)),
        seconds={},
        import_parity=_facts(build.context).parity,
    )


def python_encoder(context: ProjectContext, frame: FrameView) -> Encoder:
    """Return an encoder that knows every text of the frame, so that encoded rows give the model its texts."""
    return Encoder.fit(context.project.features.columns, frame.rows)


def write_python(context: ProjectContext, folder: Path) -> None:
    """Write the project's Python model into a bundle. Raises ProjectError as ``python_record`` does."""
    bundle.copy_sources(folder, _python_sources(context))
    (folder / bundle.FOLDER / bundle.RECORD_FILE).write_text(python_record(context).model_dump_json(indent=1))


def python_record(context: ProjectContext) -> PythonRecord:
    """Return the record of the project's Python model.

    Raises:
        ProjectError: Its code or files cannot be taken along.
    """
    project = context.project
    model = cast(PythonModel, project.model)
    return PythonRecord(
        class_name=f"{model.build.__module__}:{model.build.__qualname__}",
        parameters=json.loads(json.dumps(model.parameters)),
        task=project.task,
        columns=project.features.columns,
        sha256=bundle.digest(_python_sources(context)),
        runtime=model.runtime,
    )


def load_python(build: CandidateBuild, folder: Path) -> FitResult:
    """Write the model into the candidate's bundle, and measure it on the rows of the frame.

    Raises:
        DataError: The model does not load, fails, or returns no scores of its task.
    """
    frame, recipe, task = build.frame, build.recipe, build.context.project.task
    write_python(build.context, folder)
    model = PythonScorer(folder, frame.encoder)
    train, validation = frame.rows_of(TRAIN), frame.rows_of(VALIDATION)
    sample = thin_rows(train, TRAIN_SAMPLE_ROWS)
    arrays = frame.encoder.encode(train)
    return FitResult(
        spec=recipe.spec,
        config=recipe.config,
        task=task,
        encoder=frame.encoder,
        inputs=InputSpec.fit(frame.encoder, task, arrays, label_array(train[LABEL])),
        state={},
        epochs=(),
        metrics=metrics.evaluate(task, model.score_table(validation), label_array(validation[LABEL])),
        train_metrics=metrics.evaluate(task, model.score_table(sample), label_array(sample[LABEL])),
        seconds={},
        model=model,
    )


def batch_parity(model: PythonScorer, task: Task, arrays: dict[str, np.ndarray], label_std: float) -> float:
    """Return the largest difference between a row's score alone and among others.

    Requests are scored in batches that form by chance: a score that depends on them is none.
    """
    together = model.score(arrays)
    rows = range(min(ALONE_ROWS, len(together)))
    alone = [model.score({name: values[i : i + 1] for name, values in arrays.items()}) for i in rows]
    difference = np.abs(np.concatenate(alone).astype(np.float64) - together[: len(alone)]).max()
    return float(difference) / (label_std if task.kind == "regression" else 1.0)


def _python_sources(context: ProjectContext) -> dict[str, Path]:
    model = cast(PythonModel, context.project.model)
    files = Path(context.location.path).parent / model.files if model.files else None
    return bundle.find_sources(model.build.__module__, Path(inspect.getfile(model.build)), files)


def _facts(context: ProjectContext) -> ImportFacts:
    return ImportFacts.load(_folder(context))


def _folder(context: ProjectContext) -> Path:
    return Path(context.location.path).parent
