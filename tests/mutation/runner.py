"""Try faults: each in a forked process, by the tests of its module first."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from tests.mutation.faults import ROOT, Fault, modules_of_product, path_of

UNIT = ROOT / "tests" / "unit"
_PUBLIC_API = ROOT / "rayloop" / "__init__.pyi"
_TEST_OF_PUBLIC_API = UNIT / "golden" / "test_public_api.py"
TIME_LIMIT_S = 300.0
TIME_LIMIT = "time limit"
CRASH = "crash"
MAX_OTHER_TESTS = 12
_POLL_S = 0.02
# Imported once, before the forks. Imports start no threads of these; the first computation would.
_HEAVY = (
    "pytest",
    "numpy",
    "scipy.stats",
    "scipy.optimize",
    "pyarrow.compute",
    "polars",
    "pydantic",
    "torch",
    "sklearn",
    "hypothesis",
    "ray",
    "mlflow",
)


@dataclass(frozen=True)
class Outcome:
    """What became of a fault: who noticed it ("own tests", "other tests", "time limit", "crash"), or "" if none did."""

    fault: Fault
    noticed_by: str
    seconds: float

    @property
    def noticed(self) -> bool:
        return bool(self.noticed_by)


def run(faults: Sequence[Fault], jobs: int) -> Iterator[Outcome]:
    """Try each fault, ``jobs`` at a time; yield outcomes as they come. Unclear ones are tried once more, alone."""
    for name in _HEAVY:
        importlib.import_module(name)
    tests = sorted({test for fault in faults for kind in tests_of(fault.module) for test in kind})
    _require_sound_tests([tests[part::jobs] for part in range(jobs)])
    unclear = []
    for outcome in _try(faults, jobs):
        # Too little processor time or memory may be the reason, and not the fault.
        if outcome.noticed_by in (TIME_LIMIT, CRASH):
            unclear.append(outcome.fault)
        else:
            yield outcome
    yield from _try(unclear, 1)


def _try(faults: Sequence[Fault], jobs: int) -> Iterator[Outcome]:
    waiting, running = list(reversed(faults)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            fault = waiting.pop()
            running[_fork(fault)] = fault, time.monotonic()
        for process in list(running):
            fault, started = running[process]
            seconds = time.monotonic() - started
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                yield Outcome(fault, _noticed_by(os.waitstatus_to_exitcode(status)), seconds)
            elif seconds > TIME_LIMIT_S:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                yield Outcome(fault, TIME_LIMIT, seconds)
            else:
                continue
            del running[process]
        time.sleep(_POLL_S)


_SURVIVED, _OTHER = 77, 78


def _noticed_by(code: int) -> str:
    if code < 0:
        return CRASH
    return {_SURVIVED: "", _OTHER: "other tests"}.get(code, "own tests")


def _require_sound_tests(parts: Sequence[Sequence[Path]]) -> None:
    """Without a fault the tests pass; else every fault would seem to be noticed."""
    processes = []
    for tests in parts:
        processes.append(os.fork())
        if not processes[-1]:
            os._exit(int(_fails(tests)))
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    if any(codes):
        raise SystemExit("the unit tests fail without a fault: see above")


def _fork(fault: Fault) -> int:
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.meta_path.insert(0, _Finder(fault))
    own, other = tests_of(fault.module)
    code = 1 if own and _fails(own) else _OTHER if other and _fails(other) else _SURVIVED
    os._exit(code)


def _fails(tests: Sequence[Path]) -> bool:
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    # pytest runs twice in a process, and finds its plugins imported.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    # Else pytest's own importer takes a product module named *_test.py, such as quality_test, from the disk.
    options += ["-o", "python_files=test_*.py"]
    return pytest.main([*options, *map(str, tests)]) not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


@cache
def tests_of(module: str) -> tuple[list[Path], list[Path]]:
    """Return test files of the module itself, then those that use it or test a module that does, the nearest first."""
    own = _own_tests(module)
    importers = _importers(module)
    users = {path for path in UNIT.rglob("test_*.py") if _imports(path, module)}
    users.update(*(_own_tests(name) for name in importers))
    # A module behind a facade, such as one of the online lookup, is tested with the facade.
    users.update(*(_own_tests(name) for importer in importers for name in _importers(importer)))
    folder = UNIT.joinpath(*module.split(".")[:-1])
    near = sorted(users - {*own}, key=lambda path: (-_common_parts(path, folder), path))[:MAX_OTHER_TESTS]
    return own, [_TEST_OF_PUBLIC_API] * _imports(_PUBLIC_API, module) + near


def _own_tests(module: str) -> list[Path]:
    *folders, name = module.split(".")
    path = UNIT.joinpath(*folders, f"test_{name}.py")
    return [path] * path.exists()


def _importers(module: str) -> list[str]:
    return [name for name in modules_of_product() if _imports(path_of(name), module)]


@cache
def _imports(path: Path, module: str) -> bool:
    package, _, name = module.rpartition(".")
    pattern = rf"from {re.escape(module)} import|from {re.escape(package)} import .*\b{name}\b"
    return re.search(pattern, path.read_text()) is not None


def _common_parts(path: Path, folder: Path) -> int:
    return sum(one == other for one, other in zip(path.parts, folder.parts, strict=False))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the module with the fault in place of the one on disk."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._fault.module:
            return None
        return importlib.util.spec_from_loader(name, self, origin=str(path_of(name)))

    def get_source(self, name: str) -> str:
        return self._fault.source

    def get_filename(self, name: str) -> str:
        return str(path_of(name))
