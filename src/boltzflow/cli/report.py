"""`boltzflow report`."""

from pathlib import Path
from typing import Annotated

import tyro

from boltzflow.cli import arguments
from boltzflow.errors import RunError


def run(
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    out: Annotated[
        arguments.MaybeText, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: RUN/report.html)")
    ] = None,
    open: arguments.Flag = False,
) -> None:
    """Write the HTML report of a run.

    One self-contained page that works offline: training curves, histograms of data, flow and reweighted flow, the weights, key figures
    with intervals, and a 3-D view of samples.

    Args:
        folder: Folder of the run.
        out: Page to write.
        open: Open it in the browser.
    """
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise RunError(f"there is no run in {path} (it has no config.yaml); name the folder that `boltzflow train -o` wrote.")
    page = arguments.new_file(out or path / "report.html", endings=(".html", ".htm"), replace=True)
    from boltzflow import report

    report.write(path, page)
    print(page)
    if open:
        show(page)


def show(page: Path) -> None:
    """Opens a page in the user's browser."""
    import webbrowser

    webbrowser.open(page.resolve().as_uri())
