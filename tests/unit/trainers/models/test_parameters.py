"""Parameters of models: those on record are those of the classes, and others are refused."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from cluster.errors import ProjectError
from tests.factories.errors import raises
from tests.factories.trainers.small_module import Small
from trainers.config import ModelSpec
from trainers.models.ft_transformer import FtTransformer
from trainers.models.linear import Linear
from trainers.models.mlp import Mlp
from trainers.models.parameters import BUILT_IN, check_parameters

CLASSES = {"linear": Linear, "mlp": Mlp, "ft_transformer": FtTransformer}


@pytest.mark.parametrize("kind", CLASSES)
def test_built_in_parameters_are_those_of_the_class(kind: str) -> None:
    assert BUILT_IN[kind] == tuple(inspect.signature(CLASSES[kind]).parameters)[2:]


@pytest.mark.parametrize(("build", "known"), [("mlp", "hidden"), (Small, "width")])
def test_unknown_parameter_is_refused(build: Any, known: str) -> None:
    check_parameters(ModelSpec(build=build), [known])
    with raises(ProjectError, "project.unknown_model_parameter", name="depth"):
        check_parameters(ModelSpec(build=build), [known, "depth"])


def test_loading_a_project_imports_no_pytorch() -> None:
    script = "import sys, rayloop.project as p; p.load_project(p.locate_project('examples.flights.project'))"
    code = script + "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
