"""``rayloop`` and ``python -m rayloop``."""

from __future__ import annotations

import sys

from rayloop.module_shadowing import hiding_module_on


def main() -> None:
    """Run the command line, unless a module of the current folder hides one of rayloop's packages."""
    if path := hiding_module_on(sys.path):
        # No part of rayloop can be imported before this check: the import itself would fail with a traceback.
        sys.stderr.write(f"error: {path} hides rayloop's own package; rename it [project.hides_package]\n")
        sys.exit(2)
    from rayloop.cli import app

    app.main()


if __name__ == "__main__":
    main()
