"""The report of a run: one HTML page that works offline."""

from boltzflow.report.html import write as write
