"""A model card as one self-contained HTML page."""

from __future__ import annotations

from cluster.web.page import bullets, empty_note, figure, join, plot, render_page, section, subsection, table, tag
from features.labeling import weak_estimate
from trainers import metrics
from trainers.card import plots
from trainers.card.model_card import ModelCard
from trainers.evaluation.fairness import MitigationResult
from trainers.selection import selection

_MAX_SLICES = 15


def render_card(card: ModelCard) -> str:
    """The page as text; it loads nothing."""
    results = (
        _gate,
        _purpose,
        _metrics,
        _selection,
        _slices,
        _fairness,
        _calibration,
        _robustness,
        _importance,
        _effects,
        _attributions,
    )
    parts = (part(card) for part in (*results, _data, _weak_labels, _features, _lineage))
    return render_page(f"{card.model}: {card.name}", card.made_at, parts)


def _gate(card: ModelCard) -> str:
    failed = sum(not check.passed for check in card.checks)
    verdict = "Passed" if card.passed else "Failed"
    caption = f"{verdict}: {len(card.checks) - failed} of {len(card.checks)} checks pass."
    if card.override:
        caption += f" Registered nevertheless: {card.override}."
    rows = [
        (tag("pass", "pass") if c.passed else tag("fail", "FAIL"), c.name, f"{c.value:.4g}", f"{c.limit:.4g}", c.reason)
        for c in sorted(card.checks, key=lambda check: check.passed)
    ]
    return section("Gate", caption, table(("", "check", "value", "limit", "reason"), rows))


def _purpose(card: ModelCard) -> str:
    return section("Purpose and limits", card.purpose or "The project declares no purpose.", bullets(card.limits))


def _metrics(card: ModelCard) -> str:
    others = card.validation_metrics, card.train_metrics
    rows = [
        (name, plots.format_interval(interval), *(figure(values.get(name)) for values in others))
        for name, interval in card.assessment.metrics.items()
    ]
    primary = metrics.primary_metric(card.task).name
    caption = f"On the held-out rows, with bootstrap intervals. The primary metric is {primary}."
    return section("Metrics", caption, table(("metric", "held out", "validation", "training"), rows))


def _selection(card: ModelCard) -> str:
    if card.selection is None:
        return ""
    return section("Selection", card.selection.reason(), table(selection.HEAD, card.selection.table(), wide_last=True))


def _slices(card: ModelCard) -> str:
    caption = (
        "Mean loss in slices of the held-out rows, as a multiple of that of all other rows. Slices found by search "
        "were proposed on validation rows and measured here. A line in the plot ends at the lower bound for all "
        "slices together."
    )
    slices = sorted((*card.assessment.slices, *card.assessment.discovered_slices), key=lambda result: -result.ratio)
    if not slices:
        return section("Slices", caption, empty_note("No slice is large enough, declared or found."))
    rows = [
        (
            s.name,
            "declared" if s.column else "found",
            f"{s.rows:,}",
            f"{s.loss:.4f}",
            f"{s.ratio:.3f}",
            f"{s.low:.3f}",
            figure(s.regression),
        )
        for s in slices[:_MAX_SLICES]
    ]
    head = ("slice", "", "rows", "loss", "ratio", "lower bound", "ratio to the champion's")
    return section("Slices", caption, plot(plots.slices(slices)) + table(head, rows))


def _fairness(card: ModelCard) -> str:
    if not card.assessment.fairness:
        return section("Groups", "", empty_note("The project declares no groups to compare."))
    tables: list[str] = []
    for groups in card.assessment.fairness:
        names = list(dict.fromkeys(name for values in groups.by_group.values() for name in values))
        rows = [
            (group, *(_group_figure(name, values.get(name)) for name in names))
            for group, values in groups.by_group.items()
        ]
        differences = (
            f"Differences: parity {figure(groups.parity_difference)}, "
            f"equalized odds {figure(groups.odds_difference)}, error {figure(groups.error_difference)}."
        )
        tables.append(subsection(groups.column, differences, table((groups.column, *names), rows)))
    if card.assessment.mitigation is not None:
        tables.append(_mitigation(card, card.assessment.mitigation))
    return section("Groups", "Rates in each group of at least the declared number of rows.", join(tables))


def _mitigation(card: ModelCard, before: MitigationResult) -> str:
    """Differences and the primary metric, of the same model without the mitigation and of this one."""
    title = f"Mitigation: {before.method}"
    if not before.groups:
        return subsection(title, "Training rows have weights by group; no model was trained without them.", "")
    rows = [
        (
            f"{name} by {was.column}",
            figure(getattr(was, f"{key}_difference")),
            figure(getattr(now, f"{key}_difference")),
        )
        for was, now in zip(before.groups, card.assessment.fairness, strict=True)
        for name, key in (("parity", "parity"), ("equalized odds", "odds"), ("error", "error"))
    ]
    metric = metrics.primary_metric(card.task).name
    rows.append((metric, figure(before.metrics.get(metric)), figure(card.assessment.metrics[metric].value)))
    caption = "The same settings, trained with and without weights of groups, on the same held-out rows."
    return subsection(title, caption, table(("difference", "without", "with"), rows))


def _calibration(card: ModelCard) -> str:
    result = card.assessment.calibration
    if result is None:
        return section("Calibration", "", empty_note("The model predicts no probabilities."))
    effect = "is in the model and changed" if result.applied else "is not in the model; it would change"
    caption = (
        f"Temperature {result.temperature:.3f}, fitted on validation rows, {effect} the expected calibration error "
        f"from {result.ece_before:.4f} to {result.ece_after:.4f} and the log loss from {result.log_loss_before:.4f} to "
        f"{result.log_loss_after:.4f} on the held-out rows. The curve shows the model as exported."
    )
    return section("Calibration", caption, plot(plots.calibration(card.curve), narrow=True))


def _robustness(card: ModelCard) -> str:
    rows = [(r.perturbation, f"{r.before:.4f}", f"{r.after:.4f}", f"{r.loss:+.4f}") for r in card.assessment.robustness]
    caption = f"{metrics.primary_metric(card.task).name} on held-out rows with perturbed inputs."
    return section("Robustness", caption, table(("inputs", "before", "after", "loss"), rows))


def _importance(card: ModelCard) -> str:
    skills = {skill.feature: skill.skill for skill in card.assessment.single_feature_skills}
    caption = (
        "Loss of the primary metric when a feature is shuffled. Skill alone is how well a feature predicts the label "
        "without the others: 1 is the label itself."
    )
    importance = card.assessment.importance
    rows = [(i.feature, f"{i.loss:.5f}", f"{i.spread:.5f}", figure(skills.get(i.feature))) for i in importance]
    bars = plot(plots.importance(importance, metrics.primary_metric(card.task).name))
    return section("Importance", caption, bars + table(("feature", "loss", "spread", "skill alone"), rows))


def _effects(card: ModelCard) -> str:
    caption = (
        "How the score changes with the most important features, around its mean: accumulated local effects of "
        "numbers, which do not borrow from correlated features, and partial dependence on the most frequent categories."
    )
    if not card.assessment.effects:
        return section("Effects", "", empty_note("Effects are measured of tasks with one score."))
    parts = (subsection(e.feature, "", plot(plots.effect(e), narrow=True)) for e in card.assessment.effects)
    return section("Effects", caption, join(parts))


def _attributions(card: ModelCard) -> str:
    caption = "Shapley values of single held-out rows: how each feature moves the score away from the mean."
    rows = (subsection(f"{a.row}, {a.output}", "", plot(plots.attribution(a))) for a in card.assessment.attributions)
    return section("Single rows", caption, join(rows))


def _data(card: ModelCard) -> str:
    rows = [(p.name, f"{p.rows:,}", f"{p.purged:,}", p.start, p.end, figure(p.label_mean)) for p in card.parts]
    caption = (
        f"{card.task.kind.capitalize()}; the label is {card.task.label}. Purged rows are in no part: their label was "
        "not known by the end of the part, or their group is in an earlier part."
    )
    if card.synthetic_rows:
        caption += f" Trained on {card.synthetic_rows:,} synthetic rows of rare classes in addition."
    return section("Data", caption, table(("part", "rows", "purged", "from", "to", "mean label"), rows))


def _weak_labels(card: ModelCard) -> str:
    if card.weak_labels is None:
        return ""
    caption = f"{card.weak_labels.summary()}; trained with weight {card.weak_labels.weight:g}, never evaluated on."
    functions = table(weak_estimate.HEAD, card.weak_labels.table())
    return section("Weak labels", caption, functions + bullets(tuple(card.weak_labels.warnings())))


def _features(card: ModelCard) -> str:
    rows = [(f.name, f.kind, f.origin, f"{f.missing:.1%}") for f in card.features]
    return section("Features", "", table(("feature", "kind", "from", "missing in training"), rows))


def _lineage(card: ModelCard) -> str:
    lineage = card.lineage
    facts = {
        "MLflow run": lineage.run_id,
        "snapshot": f"{lineage.snapshot.table}@{lineage.snapshot.id}",
        "features": lineage.feature_hash,
        "code": lineage.code_version,
        "fingerprint": lineage.fingerprint,
        "compared with": lineage.champion or "no champion",
        "precision": card.precision,
        "compression": card.compression or "none",
        "size": f"{card.size / (1 << 20):.2f} MiB",
        "latency": ", ".join(f"{name} {value:.0f}" for name, value in card.latency.items()),
    } | {f"{part}.{name}": str(value) for part, values in card.recipe.items() for name, value in values.items()}
    return section("Lineage", "", table(("", ""), list(facts.items())))


def _group_figure(name: str, value: float | None) -> str:
    return f"{value:,.0f}" if name == "rows" and value is not None else figure(value)
