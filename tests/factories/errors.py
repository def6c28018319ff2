"""Assert which error is raised: by its code and fields, never by its sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.errors import RayloopError


@contextmanager
def raises(kind: type[RayloopError], code: str, /, **fields: object) -> Iterator[pytest.ExceptionInfo[RayloopError]]:
    """The block raises ``kind`` with ``code``, and with at least ``fields``."""
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    assert error.code == code, f"{error.code}: {error}"
    assert {name: error.fields.get(name) for name in fields} == fields
