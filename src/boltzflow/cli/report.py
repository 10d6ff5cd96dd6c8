"""`boltzflow report`."""

from pathlib import Path
from typing import Annotated

import tyro

from boltzflow.cli import arguments, output, runs


def run(
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    out: Annotated[
        arguments.MaybeText, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: RUN/report.html)")
    ] = None,
    open: arguments.Flag = False,
) -> None:
    """Write the HTML report of a run.

    One self-contained page that works offline: training curves, histograms of data, flow and reweighted flow, the weights, key figures
    with intervals, and a 3-D view of samples. What is missing or cannot be read is said on the terminal and in the page.

    Args:
        folder: Folder of the run.
        out: Page to write.
        open: Open it in the browser.
    """
    path = runs.folder_of(folder)
    page = arguments.new_file(path / "report.html" if out is None else out, endings=(".html", ".htm"), replace=True)
    from boltzflow import extras, runtime

    extras.require("report", "a report")
    from boltzflow import report

    runtime.configure()
    report.write(path, page, say=output.say)
    print(page)
    if open:
        show(page)


def show(page: Path) -> None:
    """Opens a page in the user's browser."""
    import webbrowser

    webbrowser.open(page.resolve().as_uri())
