"""The command line: commands, arguments, options, types and defaults, and the text of its help.

Help texts are prose: one that is improved on purpose changes ``command_line_help.json`` in the same commit.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rayloop.cli.app import EXIT_USER_ERROR, app
from tests.factories.golden.files import golden


def _parameter(parameter: Any) -> dict[str, Any]:
    default = parameter.default() if callable(parameter.default) else parameter.default
    return {
        "kind": parameter.param_type_name,
        "names": sorted([*parameter.opts, *parameter.secondary_opts]),
        "type": re.sub(r"<class '([\w.]+)'>", r"\1", str(parameter.type_descriptor.annotation)),
        "required": parameter.required,
        "repeatable": parameter.multiple or parameter.nargs == -1,
        "flag": bool(getattr(parameter, "is_flag", False)),
        "default": default,
    }


def _command(command: Any) -> dict[str, Any]:
    # Arguments in their order, which counts.
    description: dict[str, Any] = {"parameters": [_parameter(parameter) for parameter in command.params]}
    if hasattr(command, "commands"):
        description["commands"] = {name: _command(inner) for name, inner in command.commands.items()}
    return description


def _help(command: Any) -> dict[str, Any]:
    texts: dict[str, Any] = {"help": command.help, "parameters": {p.name: p.help for p in command.params}}
    if hasattr(command, "commands"):
        texts["commands"] = {name: _help(inner) for name, inner in command.commands.items()}
    return texts


def test_commands_and_their_parameters_are_unchanged() -> None:
    golden("command_line", _command(get_command(app)))


def test_help_of_commands_and_parameters_is_unchanged() -> None:
    golden("command_line_help", _help(get_command(app)))


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["run"],
        ["run", "a", "--no-such-option"],
        ["push", "only-a-project"],
        ["keys", "create", "me"],
    ],
    ids=" ".join,
)
def test_bad_call_exits_with_2(words: list[str]) -> None:
    assert CliRunner().invoke(app, words).exit_code == 2


def test_deliberate_error_exits_with_2() -> None:
    assert EXIT_USER_ERROR == 2
