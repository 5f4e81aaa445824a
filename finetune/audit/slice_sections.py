"""Sections about groups of rows: slices on which the model is worse, and rates of groups."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.audit.evidence import Evidence
from finetune.audit.sections import Block, Note, ReportSection, Table
from finetune.config.schema import ReportConfig
from finetune.errors import FinetuneError
from finetune.reporting.slice_tables import (
    GROUP_COLUMNS,
    SLICE_COLUMNS,
    group_note,
    group_rows,
    slice_note,
    slice_rows,
)
from finetune.reports.slices import INSTALL, check_report_columns, has_fairlearn, measure_report

TITLE = "Slices"


def slice_sections(evidence: Evidence) -> Iterator[ReportSection]:
    """Compare slices of the split with all other rows, those asked for or those of the run."""
    run, config = evidence.run, evidence.report
    if config is None:
        config = ReportConfig() if run is None else run.read_section("report", ReportConfig)
    if not has_fairlearn():
        yield ReportSection("slices", TITLE, [Note(f"Slices are not measured; {INSTALL}")])
        return
    try:
        check_report_columns(config, evidence.measured.rows, evidence.task.rows)
        facts = measure_report(evidence.measured, config)
    except FinetuneError as error:  # such as other rows, which lack a column of the run's
        yield ReportSection("slices", TITLE, [Note(str(error))])
        return
    blocks, finding = list[Block](), ""
    if slices := facts.get("slices"):
        rows = slice_rows(slices)
        blocks += [Note(f"{slice_note(slices)}."), Table("", SLICE_COLUMNS, rows)]
        finding = f"the worst slice is {rows[0][0]}: {rows[0][2]}" if rows else ""
    if groups := facts.get("groups"):
        note = group_note(groups)
        blocks.append(Table("Differences between groups", GROUP_COLUMNS, group_rows(groups), note))
    if blocks:
        yield ReportSection("slices", TITLE, blocks, finding)
