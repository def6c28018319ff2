"""The catalog: its first use prepares the warehouse."""

from __future__ import annotations

from pathlib import Path

from cluster.settings import Settings
from cluster.storage.table_catalog import TableCatalog


def test_catalog_creates_the_folders_of_a_local_warehouse(tmp_path: Path) -> None:
    warehouse = tmp_path / "several" / "missing" / "folders"
    catalog = TableCatalog(Settings(home=tmp_path, warehouse=warehouse.as_uri()))
    catalog.check()
    assert warehouse.is_dir()
