"""The blocks of docs/features.md run as they stand, one after the other; the commands it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from rayloop.cli.app import app

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.long
def test_python_blocks_of_the_docs_run() -> None:
    code = "\n".join(blocks("python"))
    exec(compile(code, "docs/features.md", "exec"), {"__name__": "docs"})


def test_commands_and_options_of_the_docs_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = [line.split() for block in blocks("sh") for line in block.splitlines() if line.startswith("rayloop ")]
    assert {words[1] for words in named} == {"run", "report", "backfill", "forget"}
    for words in named:
        options = {option for parameter in commands[words[1]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
