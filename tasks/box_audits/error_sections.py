"""Section on the kinds of errors of a detector: how many, of which classes, what each costs.

Shapes: D detections, T true boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from finetune.audit.charts import layered
from finetune.audit.sections import Block, Chart, Link, Note, ReportSection, Table
from finetune.errors import format_count
from tasks.box_audits.box_outcomes import (
    CONFUSIONS_OF,
    ERRORS_OF,
    KINDS_OF,
    name_confusion,
    name_error,
)
from tasks.box_audits.judged_boxes import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    CORRECT,
    DUPLICATE,
    IGNORED,
    KINDS,
    LOCALIZATION,
    MISSED,
    JudgedBoxes,
)
from tasks.box_audits.mended_precision import FALSE_NEGATIVES, FALSE_POSITIVES, precision_gains

KIND_COLORS = {
    CORRECT: "#3b6fb6",
    CLASSIFICATION: "#b84a62",
    LOCALIZATION: "#d9822b",
    BOTH: "#8c6d4f",
    DUPLICATE: "#7b62b3",
    BACKGROUND: "#5b6770",
    MISSED: "#c62f2f",
}
MEANINGS = {
    CLASSIFICATION: "wrong class, IoU from 0.5 on",
    LOCALIZATION: "right class, IoU from 0.1 to 0.5",
    BOTH: "wrong class, IoU from 0.1 to 0.5",
    DUPLICATE: "an object that is found already",
    BACKGROUND: "no object: IoU below 0.1",
    MISSED: "an object that is not found, not even with one of the first two errors",
    FALSE_POSITIVES: "every wrong box, ranked below the correct ones",
    FALSE_NEGATIVES: "every object that is not found",
}
FATES = (CORRECT, LOCALIZATION, CLASSIFICATION, MISSED)
"""What becomes of an object."""
MOST_CLASSES, MOST_BARS, MOST_PAIRS = 30, 12, 15


def error_section(
    judged: JudgedBoxes, names: Sequence[str], threshold: float, ap50: float | None
) -> ReportSection:
    """Describe the errors from `threshold` on, and what each kind costs of `ap50`.

    It is None without true boxes.
    """
    shown, gains = judged.of_score(threshold), precision_gains(judged, len(names))
    correct, detections = int((shown.kinds == CORRECT).sum()), int((shown.kinds != IGNORED).sum())
    text = (
        f"Detections with a score of at least {threshold:g}, as predict gives them: {correct} of "
        f"{detections} are correct, which finds {correct} of "
        f"{format_count(len(shown.true_labels), 'object')}. Each of the others is of one kind, by "
        "TIDE (arXiv:2008.08115). The gain is what AP50, over detections of all scores, would rise "
        "by if the errors of a kind were mended and all others stayed: gains do not add up."
    )
    blocks: list[Block] = [Note(text), _kinds_table(shown, gains)]
    finding = ""
    if ap50 is not None:
        is_cut = len(set(judged.true_labels.tolist())) > MOST_BARS
        cut = f"The {MOST_BARS} classes with the most objects." if is_cut else ""
        blocks += [
            Chart("error-gains", "AP50 gained by mending a kind", _gains_chart(gains)),
            Chart("objects-by-class", "What became of the objects", _fates(shown, names), cut),
        ]
        worst = max(KINDS, key=lambda kind: gains[kind])
        finding = f"AP50 is {ap50:.3f}; mending {worst} errors would add {gains[worst]:.3f}"
        finding = finding if gains[worst] > 0 else f"AP50 is {ap50:.3f}"
    blocks.append(_class_table(shown, names))
    if pairs := _pairs_table(shown, names):
        blocks.append(pairs)
    return ReportSection("errors", "Kinds of errors", blocks, finding)


def _kinds_table(shown: JudgedBoxes, gains: dict[str, float]) -> Table:
    counts: dict[str, int] = shown.count()
    false = sum(counts[kind] for kind in KINDS if kind != MISSED)
    lines: list[list[Any]] = [
        [kind, _link(counts[kind], KINDS_OF, kind), f"{gains[kind]:.4f}", MEANINGS[kind]]
        for kind in KINDS
    ]
    for kind, count in ((FALSE_POSITIVES, false), (FALSE_NEGATIVES, int((~shown.found).sum()))):
        lines.append([kind, count, f"{gains[kind]:.4f}", MEANINGS[kind]])
    return Table("", ["kind", "boxes", "AP50 gain", "which"], lines)


def _link(count: int, column: str, value: str) -> Any:
    return Link(str(count), {column: value}) if count else 0


def _gains_chart(gains: dict[str, float]) -> dict[str, Any]:
    data = [{"kind": kind, "gain": round(gains[kind], 5)} for kind in KINDS]
    channels = {
        "x": {
            "field": "gain",
            "type": "quantitative",
            "title": "AP50 gain",
            "axis": {"tickCount": 4},
        },
        "y": {"field": "kind", "type": "nominal", "sort": None, "title": None},
        "color": {**_kind_scale(KINDS), "legend": None, "field": "kind"},
    }
    return layered(data, [{"mark": {"type": "bar", "tooltip": True}, "encoding": channels}])


def _kind_scale(kinds: Sequence[str]) -> dict[str, Any]:
    scale = {"domain": list(kinds), "range": [KIND_COLORS[kind] for kind in kinds]}
    return {"type": "nominal", "sort": None, "scale": scale}


def stacked_fates(data: Sequence[dict[str, Any]], axis: str) -> dict[str, Any]:
    """Draw bars of objects by `axis`, cut into the shares of what became of them."""
    lines = [{**line, "rank": FATES.index(line["outcome"])} for line in data]
    channels = {
        "y": {"field": axis, "type": "nominal", "sort": None, "title": None},
        "x": {
            "field": "objects",
            "type": "quantitative",
            "stack": "normalize",
            "axis": {"format": "%"},
            "title": "share of the objects",
        },
        "color": {**_kind_scale(FATES), "field": "outcome"},
        "order": {"field": "rank", "type": "quantitative"},
        "tooltip": [{"field": name} for name in (axis, "outcome", "objects")],
    }
    return layered(lines, [{"mark": {"type": "bar"}, "encoding": channels}])


def _fates(shown: JudgedBoxes, names: Sequence[str]) -> dict[str, Any]:
    """Draw what became of the objects of the classes that have most of them."""
    objects = Counter(shown.true_labels.tolist())
    counts = Counter(zip(shown.true_labels.tolist(), shown.outcomes.tolist(), strict=True))
    data = [
        {"class": f"{names[label]} ({count})", "outcome": kind, "objects": counts[label, kind]}
        for label, count in objects.most_common(MOST_BARS)
        for kind in FATES
        if counts[label, kind]
    ]
    return stacked_fates(data, "class")


def _class_table(shown: JudgedBoxes, names: Sequence[str]) -> Table:
    counts = Counter(zip(shown.kinds.tolist(), shown.labels.tolist(), strict=True))
    counts.update((MISSED, label) for label in shown.true_labels[shown.missed].tolist())
    objects = Counter(shown.true_labels.tolist())
    lines = [
        [
            name,
            objects[label],
            counts[CORRECT, label],
            *(
                _link(counts[kind, label], ERRORS_OF, name_error(kind, name))
                for kind in (MISSED, *KINDS[:-1])
            ),
        ]
        for label, name in enumerate(names)
    ]
    wrong = [sum(counts[kind, label] for kind in KINDS) for label in range(len(names))]
    order = sorted(range(len(names)), key=lambda label: -wrong[label])
    note = "Found and missed count objects of the class, the others detections that name it."
    if len(names) > MOST_CLASSES:
        note += f" The {MOST_CLASSES} of {len(names)} classes with the most errors."
    columns = ["class", "objects", "found", MISSED, *KINDS[:-1]]
    return Table("By class", columns, [lines[label] for label in order[:MOST_CLASSES]], note)


def _pairs_table(shown: JudgedBoxes, names: Sequence[str]) -> Table | None:
    wrong = shown.kinds == CLASSIFICATION
    true = shown.true_labels[shown.targets[wrong]].tolist()
    pairs = Counter(zip(true, shown.labels[wrong].tolist(), strict=True))
    if not pairs:
        return None
    lines = [
        [
            names[true],
            names[predicted],
            _link(count, CONFUSIONS_OF, name_confusion(names[true], names[predicted])),
        ]
        for (true, predicted), count in pairs.most_common(MOST_PAIRS)
    ]
    return Table("Most frequent confusions", ["true", "predicted", "detections"], lines)
