"""How a run of tests starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import sys, pytest
pytest.main(["-p", "no:cacheprovider", "tests/unit/cluster/test_fingerprint.py"])
print("imported:", *{"ray", "torch", "mlflow", "hypothesis"} & set(sys.modules))
"""


def test_file_of_pure_tests_starts_without_heavy_libraries() -> None:
    process = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert " passed" in process.stdout
    assert process.stdout.splitlines()[-1] == "imported:"
