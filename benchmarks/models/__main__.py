"""The sections of the benchmark of models."""

from __future__ import annotations

from benchmarks.models import explain, imports, label_queue, retraining, selection, weak_labels
from benchmarks.sections import Section, run_sections

_ABOUT = """\
One row of the table is one claim about models, their explanations or the labels that train them. Seeds are fixed.
docs/labels.md, docs/import.md, docs/explanations.md and docs/training.md explain the terms."""

SECTIONS: dict[str, Section] = {
    "label-queue": label_queue.rows,
    "weak-labels": weak_labels.rows,
    "import": imports.rows,
    "explain": explain.rows,
    "retraining": retraining.rows,
    "selection": selection.rows,
}


def main() -> None:
    """Run the chosen sections and write their results."""
    run_sections("models", _ABOUT, SECTIONS, ("lightgbm", "numpy", "onnxruntime", "scikit-learn"))


if __name__ == "__main__":
    main()
