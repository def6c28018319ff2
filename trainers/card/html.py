"""A model card as one self-contained HTML page. Values in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cluster.web.page import empty_note, plot, render_page, section, table
from trainers import metrics
from trainers.card import plots as plots
from trainers.card.model_card import ModelCard
from trainers.evaluation.slices import SliceResult

_SHOWN_SLICES = 15


def render_card(card: ModelCard) -> str:
    """The page. It loads nothing from anywhere."""
    parts = [
        _gate(card),
        _purpose(card),
        _metrics(card),
        _slices(card),
        _fairness(card),
        _calibration(card),
        _robustness(card),
        _importance(card),
        _attributions(card),
        _data(card),
        _features(card),
        _lineage(card),
    ]
    return render_page(f"{card.model}: {card.name}", card.made_at, parts)


def _gate(card: ModelCard) -> str:
    verdict = "Passed" if card.passed else "Failed"
    failed = sum(not check.passed for check in card.checks)
    told = f"{verdict}: {len(card.checks) - failed} of {len(card.checks)} checks hold."
    if card.override:
        told += f" Registered all the same: {card.override}."
    rows = [
        (_tag(c.passed), escape(c.name), f"{c.value:.4g}", f"{c.limit:.4g}", escape(c.reason))
        for c in sorted(card.checks, key=lambda check: check.passed)
    ]
    return section("Gate", told, table(("", "check", "value", "limit", "in words"), rows))


def _purpose(card: ModelCard) -> str:
    limits = "".join(f"<li>{escape(limit)}</li>" for limit in card.limits)
    return section("Purpose and limits", card.purpose or "The project declares no purpose.", f"<ul>{limits}</ul>")


def _metrics(card: ModelCard) -> str:
    rows = [
        (
            escape(name),
            plots.interval(found),
            _figure(card.validation_metrics.get(name)),
            _figure(card.train_metrics.get(name)),
        )
        for name, found in card.assessment.metrics.items()
    ]
    caption = f"On the held-out rows, with bootstrap intervals; {metrics.primary(card.task).name} decides."
    return section("Metrics", caption, table(("metric", "held out", "validation", "training"), rows))


def _slices(card: ModelCard) -> str:
    declared, found = card.assessment.slices, card.assessment.discovered_slices
    caption = (
        "Mean loss in parts of the held-out rows, as a multiple of all other rows'. Slices found by search were proposed by "
        "validation rows and measured here. A line in the plot ends where the true value is above for sure, all slices together."
    )
    if not declared and not found:
        return section("Slices", caption, empty_note("None was declared or found that is large enough."))
    both = sorted((*declared, *found), key=lambda m: -m.ratio)
    return section("Slices", caption, plot(plots.slices(both)) + _slice_table(both[:_SHOWN_SLICES]))


def _slice_table(found: Sequence[SliceResult]) -> str:
    rows = [
        (
            escape(m.name),
            "declared" if m.column else "found",
            f"{m.rows:,}",
            f"{m.loss:.4f}",
            f"{m.ratio:.3f}",
            f"{m.low:.3f}",
            _figure(m.regression),
        )
        for m in found
    ]
    return table(("slice", "", "rows", "loss", "ratio", "surely above", "ratio to the champion's"), rows)


def _fairness(card: ModelCard) -> str:
    if not card.assessment.fairness:
        return section("Groups", "", empty_note("The project declares no groups to be treated alike."))
    body = []
    for groups in card.assessment.fairness:
        names = list(dict.fromkeys(name for values in groups.by_group.values() for name in values))
        rows = [
            (escape(group), *(_of_group(name, values.get(name)) for name in names))
            for group, values in groups.by_group.items()
        ]
        differences = (
            f"Differences: parity {_figure(groups.parity_difference)}, equalised odds {_figure(groups.odds_difference)}, "
            f"error {_figure(groups.error_difference)}."
        )
        body.append(f"<h3>{escape(groups.column)}</h3><p>{differences}</p>" + table((groups.column, *names), rows))
    return section("Groups", "Rates in each group of at least the declared number of rows.", "".join(body))


def _calibration(card: ModelCard) -> str:
    found = card.assessment.calibration
    if found is None:
        return section("Calibration", "", empty_note("Not a model of probabilities."))
    caption = (
        f"Temperature {found.temperature:.3f}, fitted on validation rows, {'is in the model' if found.applied else 'would'}"
        f"{': it took' if found.applied else ' take'} the expected calibration error from {found.ece_before:.4f} to {found.ece_after:.4f} and the log loss "
        f"from {found.log_loss_before:.4f} to {found.log_loss_after:.4f} on the held-out rows. The curve is the model as it is."
    )
    return section("Calibration", caption, f'<div class="narrow">{plot(plots.calibration(card.curve))}</div>')


def _robustness(card: ModelCard) -> str:
    rows = [
        (escape(s.perturbation), f"{s.before:.4f}", f"{s.after:.4f}", f"{s.loss:+.4f}")
        for s in card.assessment.robustness
    ]
    caption = f"{metrics.primary(card.task).name} on held-out rows whose inputs were spoilt."
    return section("Robustness", caption, table(("inputs", "before", "after", "lost"), rows))


def _importance(card: ModelCard) -> str:
    alone = {found.feature: found.skill for found in card.assessment.single_feature_skills}
    caption = (
        "What the model goes by. Skill alone is what a feature predicts without the others: 1 is the label itself."
    )
    rows = [
        (escape(i.feature), f"{i.loss:.5f}", f"{i.spread:.5f}", _figure(alone.get(i.feature)))
        for i in card.assessment.importance
    ]
    drawn = plot(plots.importance(card.assessment.importance, metrics.primary(card.task).name))
    return section("Importance", caption, drawn + table(("feature", "lost", "spread", "skill alone"), rows))


def _attributions(card: ModelCard) -> str:
    caption = "Shapley values of single held-out rows: how each feature moved the score away from the mean."
    drawn = (
        f"<h3>{escape(a.row)}, {escape(a.output)}</h3>" + plot(plots.attribution(a))
        for a in card.assessment.attributions
    )
    return section("Single rows", caption, "".join(drawn))


def _data(card: ModelCard) -> str:
    rows = [(escape(p.name), f"{p.rows:,}", escape(p.start), escape(p.end), _figure(p.label_mean)) for p in card.parts]
    caption = f"{card.task.kind.capitalize()}; the label is {card.task.label}."
    return section("Data", caption, table(("part", "rows", "from", "to", "mean label"), rows))


def _features(card: ModelCard) -> str:
    rows = [(escape(f.name), f.kind, escape(f.origin), f"{f.missing:.1%}") for f in card.features]
    return section("Features", "", table(("feature", "kind", "from", "missing in training"), rows))


def _lineage(card: ModelCard) -> str:
    made = card.lineage
    facts = {
        "MLflow run": made.run_id,
        "snapshot": f"{made.snapshot.table}@{made.snapshot.id}",
        "features": made.feature_hash,
        "code": made.code_version,
        "fingerprint": made.fingerprint,
        "compared with": made.champion or "no champion",
        "precision": card.precision,
        "compression": card.compression or "none",
        "size": f"{card.size / (1 << 20):.2f} MiB",
        "latency": ", ".join(f"{name} {value:.0f}" for name, value in card.latency.items()),
    } | {f"{part}.{name}": str(value) for part, values in card.recipe.items() for name, value in values.items()}
    return section("Lineage", "", table(("", ""), [(escape(k), escape(v)) for k, v in facts.items()]))


def _tag(passed: bool) -> str:
    return f'<span class="{"pass" if passed else "fail"}">{"pass" if passed else "FAIL"}</span>'


def _of_group(name: str, value: float | None) -> str:
    return f"{value:,.0f}" if name == "rows" and value is not None else _figure(value)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
