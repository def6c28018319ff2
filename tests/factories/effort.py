"""How much a run tries: everything, or what answers in about two minutes.

``pytest --long`` runs tests marked ``long`` and tries every example of a property; `make test` does. Without the option
long tests are left out and a property tries a tenth of its examples; `make test-unit` does that.
"""

from __future__ import annotations

_full = False


def use_full(full: bool) -> None:
    """Set what ``examples`` returns; before test modules are imported, because settings are decorators."""
    global _full
    _full = full


def examples(full: int) -> int:
    """Return how many examples a property test tries: ``full``, or a tenth of it in a short run."""
    return full if _full else full // 10
