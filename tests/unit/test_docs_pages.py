"""Files, commands, options and settings named in the pages exist, and examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from cluster.settings import Settings
from rayloop.cli.app import app
from rayloop.module_shadowing import PACKAGES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILE = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|md|yaml|toml|txt|proto|j2))`")
BARE_FILE = re.compile(r"`(\w+\.py)`")
FOLDERS = (*PACKAGES, "examples", "tests", "benchmarks", "docs")
MODULES = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
BUILT = {"benchmarks/results", "docs/decisions/NNNN-title.md"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@every_page
def test_files_named_in_a_page_exist(page: Path) -> None:
    paths = set(FILE.findall(page.read_text())) - BUILT
    assert {name for name in paths if not (ROOT / name).exists()} == set()
    assert set(BARE_FILE.findall(page.read_text())) <= MODULES


@every_page
def test_commands_and_options_named_in_a_page_exist(page: Path) -> None:
    text = page.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(rayloop [a-z][^`]*)`", text)
    for line in (line for line in lines if line.startswith("rayloop ")):
        words = line.split()[1:]
        command = typer.main.get_command(app)
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) <= known, line


@pytest.mark.long
def test_python_blocks_of_the_features_page_run_one_after_the_other() -> None:
    page = "docs/features.md"
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": "docs"})


def test_every_setting_is_in_the_guide() -> None:
    text = "".join((ROOT / "docs" / name).read_text() for name in ("operations.md", "access.md"))
    names = {name.removeprefix("RAYLOOP").lstrip("_").lower() for name in re.findall(r"`([A-Z_]+)`", text)}
    exported = {name.lower() for name in re.findall(r"export RAYLOOP_([A-Z_]+)=", text)}
    assert set(Settings.model_fields) - names - exported == set()


def test_decisions_have_distinct_numbers() -> None:
    numbers = [page.name[:4] for page in (ROOT / "docs" / "decisions").glob("[0-9]*.md")]
    assert len(set(numbers)) == len(numbers)
