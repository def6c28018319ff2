"""Pages that the site generates from the code, so that each fact is written once.

The start page is the README; command line, settings, error codes and packages are read from the source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGES = ("rayloop", "features", "trainers", "deployments", "monitoring", "cluster")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "index.md": _from_root("README.md"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "contributing.md": _from_root("CONTRIBUTING.md"),
        "decisions/index.md": _decisions(),
        "reference/api.md": _api(),
        "reference/cli.md": _command_line(),
        "reference/settings.md": _settings(),
        "reference/errors.md": _errors(),
        **dict(_packages()),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def _from_root(name: str) -> str:
    """A page of the repository's root, with its links as seen from docs/."""
    text = (ROOT / name).read_text().replace("](docs/decisions)", "](decisions/index.md)").replace("](docs/", "](")
    return text.replace("](CHANGELOG.md)", "](changelog.md)").replace("](CONTRIBUTING.md)", "](contributing.md)")


def _decisions() -> str:
    lines = [
        "# Decisions",
        "",
        "One page for each decision that a reader may question. Each says what was measured and where a test shows it.",
        "",
    ]
    for page in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        title = page.read_text().splitlines()[0].lstrip("# ")
        lines.append(f"- {page.name[:4]} [{title}]({page.name})")
    return "\n".join(lines)


def _api() -> str:
    """The public names of ``rayloop`` in the groups of its docstring, each from the module that defines it.

    They are loaded lazily, so mkdocstrings, which reads the source, does not find them in the package itself.
    """
    package = ROOT / "rayloop" / "__init__.py"
    origin = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.parse(package.with_suffix(".pyi").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lines = ["# Project API", "", "A project module imports these names: `import rayloop as rl`.", ""]
    for line in (ast.get_docstring(ast.parse(package.read_text())) or "").splitlines():
        if group := re.fullmatch(r"(\w[\w ]+):", line):
            lines += [f"## {group[1]}", ""]
        elif entry := re.match(r" +(\w+): ", line):
            lines += [f"::: {origin.pop(entry[1])}", "    options:", "      heading_level: 3"]
            lines += [f"      heading: rl.{entry[1]}", "      skip_local_inventory: true", ""]
    if origin:
        raise ValueError(f"the docstring of rayloop lacks {', '.join(origin)}")
    return "\n".join(lines)


def _command_line() -> str:
    import typer

    from rayloop.cli.app import app

    lines = ["# Command line", "", "`python -m rayloop` is the same as `rayloop`.", ""]
    for name, command in _commands(typer.main.get_command(app), ""):
        lines += [f"## rayloop {name}", "", (command.help or "").strip(), ""]
        if rows := [_parameter(each) for each in command.params if each.name != "help"]:
            lines += ["| parameter | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        elif not command.hidden:
            yield f"{prefix}{name}", command


def _parameter(parameter: Any) -> str:
    option = parameter.opts[0].startswith("-")
    names = ", ".join(f"`{name}`" for name in parameter.opts) if option else f"`{parameter.name.upper()}`"
    default = "required" if parameter.required else f"`{parameter.default}`" if parameter.default else ""
    return f"| {names} | {default} | {_cell(parameter.help or '')} |"


def _settings() -> str:
    """Fields of Settings with the string below each of them."""
    tree = ast.parse((ROOT / "cluster" / "settings.py").read_text())
    (model,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    lines = [
        "# Settings",
        "",
        "Each setting is an environment variable. If it is unset, the default applies.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for node, below in zip(model.body, [*model.body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id != "model_config":
            text = (
                ast.literal_eval(below.value)
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                else ""
            )
            default = _default(node.value)
            lines.append(f"| `RAYLOOP_{node.target.id.upper()}` | {default} | {' '.join(text.split())} |")
    return "\n".join(lines)


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):
        value = next((word.value for word in value.keywords if word.arg == "default"), None)
    text = ast.unparse(value) if value is not None else ""
    return f"`{text}`" if text not in ("", "''") else ""


def _errors() -> str:
    from cluster.errors import messages

    lines = [
        "# Error codes",
        "",
        "A code is stable: scripts may rely on it. Sentences may change."
        " `{…}` stands for a value, which the error also carries as a field.",
    ]
    for area, rows in groupby(messages().items(), lambda row: row[0].partition(".")[0]):
        lines += ["", f"## {area}", "", "| code | what it says | what to do |", "|---|---|---|"]
        for code, message in rows:
            what, todo = (_cell(re.sub(r"\{(\w+)[^}]*\}", r"{\1}", message.get(part, ""))) for part in ("what", "todo"))
            lines.append(f"| `{code}` | {what} | {todo} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _packages() -> Iterator[tuple[str, str]]:
    """A page for each package: its modules with their public names."""
    yield "reference/packages/index.md", "# Packages\n\n" + "\n".join(f"- [{p}]({p}.md)" for p in PACKAGES)
    for package in PACKAGES:
        lines = [f"# {package}", ""]
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if not path.name.startswith("__") and path.read_text().strip():
                lines += [f"::: {module}", "    options:", "      show_root_full_path: true", ""]
        yield f"reference/packages/{package}.md", "\n".join(lines)
