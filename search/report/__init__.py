"""One self-contained HTML page about a run: `render(ReportData(…)) -> str`."""

from archrank.search.report.data import Constant, ReportData
from archrank.search.report.page import render

__all__ = ["Constant", "ReportData", "render"]
