"""The report on a model: from its evaluation to sections, and to a page.

report = Run("runs/news-bert-base-uncased-lora").report()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from html import escape
from pathlib import Path

from finetune.audit.evidence import Evidence, gather_evidence
from finetune.audit.label_sections import label_sections
from finetune.audit.listed_rows import MOST_ROWS, rows_of_page
from finetune.audit.overview import curve_sections, metric_sections
from finetune.audit.report_page import FIGURES, load_template, write_figures, write_report_page
from finetune.audit.row_sections import doubtful_sections, repeated_sections
from finetune.audit.sections import WORST, ReportSection
from finetune.audit.slice_sections import slice_sections
from finetune.audit.worst_rows import worst_sections
from finetune.config.schema import ReportConfig
from finetune.data.opening import Splits
from finetune.data.source import Source
from finetune.distributed.launch import this_process
from finetune.errors import ConfigError, format_count
from finetune.io.run_folder import RunFolder
from finetune.io.table_writer import name_file_in_errors, preparing_folder
from finetune.reporting.console import Console


def _own_sections(evidence: Evidence) -> Iterable[ReportSection]:
    """Yield the sections of the task, but for one that replaces the shared worst rows."""
    return [section for section in evidence.own_sections if section.key != WORST]


SECTIONS: Sequence[Callable[[Evidence], Iterable[ReportSection]]] = (
    metric_sections,
    curve_sections,
    label_sections,
    _own_sections,
    slice_sections,
    worst_sections,
    doubtful_sections,
    repeated_sections,
)
"""Makers of the sections, in the order of the page; each gives none where it does not apply."""


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        path: its page.
        findings: one sentence per section that has one, {title: sentence}.
    """

    path: Path
    findings: dict[str, str]

    def _repr_html_(self) -> str:
        """Render the findings and a link to the page, for notebooks."""
        lines = [f"<li><b>{escape(k)}</b>: {escape(v)}</li>" for k, v in self.findings.items()]
        link = f'<a href="{escape(str(self.path))}">{escape(str(self.path))}</a>'
        return f"<ul>{''.join(lines)}</ul><p>{link}</p>"


def write_report(
    run: str,
    source: Source | None,
    output: Path | None,
    console: Console,
    batch_size: int = 32,
    *,
    splits: Splits | None = None,
    report: ReportConfig | None = None,
    trust_code: bool = False,
) -> Report | None:
    """Report on a model, on `source` or on the held-out rows of its run; None on other processes.

    `report` says which slices and groups are measured, in place of the run's config. Raises
    FinetuneError.
    """
    folder = output or default_report_folder(run, source)
    load_template()  # raises if its library is missing, before the model is evaluated
    is_main = this_process().is_main_process
    with preparing_folder(folder) if is_main else nullcontext():
        evidence = gather_evidence(
            run, source, console, batch_size, splits=splits, report=report, trust_code=trust_code
        )
    if not is_main:
        return None
    with console.during("making the report"):
        sections = [section for make in SECTIONS for section in make(evidence)]
        rows = rows_of_page(evidence)
    left_out = ""
    if len(evidence) > MOST_ROWS:
        left_out = f"The {MOST_ROWS} worst of {format_count(len(evidence), 'row')} are listed."
    with console.during("writing the report"), name_file_in_errors(folder):
        facts = _facts(evidence)
        path = write_report_page(folder, _title(evidence), facts, sections, rows, left_out)
        try:
            write_figures(folder / FIGURES, sections)
        except ConfigError as error:
            console.print(f"no PNG files: {error}")
    findings = {section.title: section.finding for section in sections if section.finding}
    console.facts({**findings, "report": f"{path}: open it in a browser"})
    return Report(path, findings)


def default_report_folder(run: str, source: Source | None) -> Path:
    """Return the folder of a report among those of a run. Raises ConfigError without a run."""
    if not RunFolder(Path(run)).has_config:
        raise ConfigError(f"{run}: no run on this machine; name a folder for the report with -o")
    reports = Path(run) / "reports"
    return reports if source is None else reports / f"report-{source.folder_name}"


def _title(evidence: Evidence) -> str:
    name = evidence.run.path.resolve().name if evidence.run is not None else evidence.task.name
    return f"{name}: {evidence.name}"


def _facts(evidence: Evidence) -> dict[str, str]:
    """Return what the page's head says about the model, without the folders of this machine."""
    facts = {"task": evidence.task.name, "rows": f"{len(evidence)} of {evidence.name}"}
    if evidence.run is None:
        return facts
    config = evidence.run.read_config()
    for section, key in (("model", "name"), ("method", "name"), ("data", "source")):
        value = config.get(section, {}).get(key)
        if isinstance(value, str):
            is_local = Path(value).is_absolute() or Path(value).exists()
            facts[section] = Path(value).name if is_local else value
    return facts
