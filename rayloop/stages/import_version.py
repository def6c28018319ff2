"""The imported model of a project as a candidate: fitted elsewhere, gated, carded and registered like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cluster.errors import ProjectError
from features.encoder import Encoder
from features.split import TRAIN, VALIDATION
from features.types import LABEL
from rayloop.context import ProjectContext
from rayloop.stages.candidate import CandidateBuild
from trainers.config import IMPORTED, ModelSpec
from trainers.data.batches import EncodedRows
from trainers.data.encoding_task import label_array
from trainers.imports.imported_model import ImportedModel, ImportFacts, load_graph
from trainers.input_spec import InputSpec
from trainers.loop.trainer import TRAIN_SAMPLE_ROWS, FitResult
from trainers.loop.validation import measure


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


def _facts(context: ProjectContext) -> ImportFacts:
    return ImportFacts.load(_folder(context))


def _folder(context: ProjectContext) -> Path:
    return Path(context.location.path).parent
