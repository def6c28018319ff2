"""Projects of files are loaded, sampled and judged, in seconds and without Ray; the command's exit code says how."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayloop.cli.app import EXIT_DIAGNOSED, app
from rayloop.project_check.judge import judge_project
from tests.factories.rayloop.orders import orders

PROJECT = """
from dataclasses import replace

import rayloop as rl
from tests.factories.rayloop.orders import orders_project, orders_source

project = orders_project(orders_source(rl.{read}))
"""


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)


def write_project(folder: Path, read: str) -> str:
    path = folder / "shop.py"
    path.write_text(PROJECT.format(read=read))
    return str(path)


def test_tables_of_files_are_judged_and_relative_paths_are_of_the_project(tmp_path: Path) -> None:
    orders().write_parquet(tmp_path / "orders.parquet")
    report = judge_project(write_project(tmp_path, "parquet('orders.parquet')"))
    assert (report.project, report.diagnostics, report.unseen) == ("orders", (), ())


def test_cells_of_csv_are_judged_as_ingestion_reads_them(tmp_path: Path) -> None:
    orders().write_csv(tmp_path / "orders.csv", separator=";", null_value="NA")
    report = judge_project(write_project(tmp_path, "csv('orders.csv', delimiter=';')"))
    assert report.diagnostics == ()
    assert "all 1,200 rows" in report.facts[0]


def test_rows_that_options_of_the_reader_choose_are_not_judged(tmp_path: Path) -> None:
    orders().write_parquet(tmp_path / "orders.parquet")
    report = judge_project(write_project(tmp_path, "parquet('orders.parquet', file_extensions=['parquet'])"))
    assert (report.diagnostics, len(report.unseen)) == ((), 1)


@pytest.mark.parametrize(
    ("content", "code"), [(None, "data.file_not_found"), (b"no parquet", "data.source_unreadable")]
)
def test_file_that_cannot_be_read_is_found(tmp_path: Path, content: bytes | None, code: str) -> None:
    if content is not None:
        (tmp_path / "orders.parquet").write_bytes(content)
    (diagnostic,) = judge_project(write_project(tmp_path, "parquet('orders.parquet')")).diagnostics
    assert (diagnostic.severity, diagnostic.code, diagnostic.where) == ("error", code, "source 'orders'")


@pytest.mark.parametrize("read", ["parquet('s3://bucket/orders')", "kafka('orders', 'localhost:1')"])
def test_source_that_is_not_in_local_files_is_named_as_not_looked_at(tmp_path: Path, read: str) -> None:
    report = judge_project(write_project(tmp_path, read))
    assert report.diagnostics == ()
    assert len(report.unseen) == 1
    assert report.unseen[0].startswith("source 'orders'")


def test_command_exits_with_1_for_an_error_and_prints_json(tmp_path: Path) -> None:
    failing = tmp_path / "shop.py"
    failing.write_text("1 / 0")
    result = CliRunner().invoke(app, ["check", str(failing), "--json"])
    assert result.exit_code == EXIT_DIAGNOSED
    (diagnostic,) = json.loads(result.stdout)["diagnostics"]
    assert (diagnostic["severity"], diagnostic["code"]) == ("error", "project.failed")
    orders().write_parquet(tmp_path / "orders.parquet")
    result = CliRunner().invoke(app, ["check", write_project(tmp_path, "parquet('orders.parquet')")])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("orders: 0 errors, 0 warnings")


def test_check_takes_less_than_three_seconds_of_processor_time_and_imports_neither_ray_nor_pytorch(
    tmp_path: Path,
) -> None:
    orders().write_parquet(tmp_path / "orders.parquet")
    reference = write_project(tmp_path, "parquet('orders.parquet')")
    script = (
        "import sys, time\n"
        "from rayloop.project_check.judge import judge_project\n"
        f"assert judge_project({reference!r}).diagnostics == ()\n"
        "assert not {'ray', 'torch', 'mlflow'} & sys.modules.keys()\n"
        "assert time.process_time() < 3.0, time.process_time()\n"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
