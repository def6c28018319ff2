"""The sections of the benchmark of evidence."""

from __future__ import annotations

from benchmarks.evidence import estimates, ladder, late_labels, leak, quiet_year, rebuild, sabotage, split
from benchmarks.evidence import rows as rows_to_harm
from benchmarks.sections import Section, run_sections

_ABOUT = """\
One row of the table is one claim about evidence on generated data whose truth is known: rayloop's value, that of what
it is compared with, the target, and whether it is met. Seeds are fixed. docs/evidence.md explains the terms."""

SECTIONS: dict[str, Section] = {
    "leak": leak.rows,
    "quiet-year": quiet_year.rows,
    "estimates": estimates.rows,
    "rows": rows_to_harm.rows,
    "ladder": ladder.rows,
    "sabotage": sabotage.rows,
    "sound": sabotage.sound_rows,
    "split": split.rows,
    "rebuild": rebuild.rows,
    "late-labels": late_labels.rows,
}


def main() -> None:
    """Run the chosen sections and write their results."""
    run_sections("evidence", _ABOUT, SECTIONS, ("numpy", "polars", "scipy", "lightgbm"))


if __name__ == "__main__":
    main()
