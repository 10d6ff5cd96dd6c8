"""The report of a run: one HTML page that works offline."""

from boltzflow import extras

with extras.of("report", "a report"):
    from boltzflow.report.html import write as write
