"""One self-contained HTML page about a sweep. plotly is imported when a report is written, not before."""

from trimtab.report.page import attach_report, write_report

__all__ = ["attach_report", "write_report"]
