"""The report of a run, of several runs, or of an old and a new model, as a web page that needs no server."""

from lightning_flip.reports.page.report import write_report, write_update_report

__all__ = ["write_report", "write_update_report"]
