"""Progress of long work: a bar on a terminal or in a notebook, a plain line now and then elsewhere, or nothing.

What takes long takes `progress`: None shows it where somebody looks on (`chosen`), True everywhere, False nowhere, and an object with the
methods of `Progress` is told.
"""

import contextlib
import html
import sys
import time
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

Field = float | int | str


@runtime_checkable
class Stream(Protocol):
    """What can be printed to."""

    def write(self, text: str, /) -> object:
        """Writes text."""
        ...

    def flush(self) -> None:
        """Sends what was written on its way."""
        ...


@runtime_checkable
class Progress(Protocol):
    """What long work tells while it runs.

    Example:
        >>> class Quiet:
        ...     def start(self, total, description): ...
        ...     def update(self, done, **fields): ...
        ...     def message(self, text): ...
        ...     def stop(self): ...
        >>> isinstance(Quiet(), bf.progress.Progress)
        True
    """

    def start(self, total: int, description: str) -> None:
        """Begins a piece of work of `total` units; ends the piece before it, if any.

        Args:
            total: units of work.
            description: what is done, in a few words.
        """
        ...

    def update(self, done: int, **fields: Field) -> None:
        """Says that `done` of the units are done, and shows figures such as `loss=8.1` beside them.

        Args:
            done: units done so far.
            fields: figures by name.
        """
        ...

    def message(self, text: str) -> None:
        """Shows a line of text without disturbing the bar.

        Args:
            text: one line.
        """
        ...

    def stop(self) -> None:
        """Ends the piece of work; may be called twice."""
        ...


class Silent:
    """Tells nothing."""

    def start(self, total: int, description: str) -> None:
        """Does nothing."""

    def update(self, done: int, **fields: Field) -> None:
        """Does nothing."""

    def message(self, text: str) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""


Wanted = Progress | bool | None
"""What functions take: who is to be told, or whether anything is to be shown; None: where somebody looks on."""


class Pace:
    """Rate and time left.

    Counts from the first update on: what comes before it is compilation, or steps that an earlier process has done. Where the work has
    parts, the rate is that of the present one: a warm-up tells nothing of what comes after it.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] = (0.0, 0)
        self._part: Field = ""

    def update(self, done: int, now: float, part: Field = "") -> bool:
        """Notes that `done` units are done at the time `now` in seconds; whether that begins another part."""
        self._last = (now, done)
        other = part != self._part
        if self._first is None or other:
            self._first, self._part = self._last, part
        return other

    @property
    def rate(self) -> float | None:
        """Units per second; None while unknown."""
        if self._first is None:
            return None
        seconds, units = self._last[0] - self._first[0], self._last[1] - self._first[1]
        return units / seconds if seconds > 0 and units > 0 else None

    def text(self) -> str:
        """Rate and time left in words, empty while unknown."""
        rate = self.rate
        if rate is None:
            return ""
        speed = f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        left = (self.total - self._last[1]) / rate
        return f"{speed}, {duration(left)} left" if left > 0 else speed


class PlainProgress:
    """A line every few seconds; for logs and pipes."""

    def __init__(self, stream: Stream | None = None, interval: float = 5.0) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._interval = interval
        self._description = ""
        self._pace: Pace | None = None
        self._shown = 0.0
        self._pending = ""

    def start(self, total: int, description: str) -> None:
        """Begins a piece of work of `total` units."""
        self.stop()
        self._description, self._pace = description, Pace(total)
        self._shown = time.monotonic()
        self.message(f"{description} ...")

    def update(self, done: int, **fields: Field) -> None:
        """Notes what is done; prints it if the last line is old enough."""
        if self._pace is None:
            return
        now = time.monotonic()
        other = self._pace.update(done, now, fields.get("now", ""))
        words = [f"{self._description}: {done}/{self._pace.total}", *_words(fields), self._pace.text()]
        self._pending = "  ".join(word for word in words if word)
        # Another part may be the last that is heard of for long.
        if other or now - self._shown >= self._interval:
            self._flush(now)

    def message(self, text: str) -> None:
        """Prints a line."""
        print(text, file=self._stream, flush=True)

    def stop(self) -> None:
        """Prints the last state, if it has not been shown."""
        self._flush(time.monotonic())
        self._pace = None

    def _flush(self, now: float) -> None:
        if self._pending:
            self.message(self._pending)
            self._pending, self._shown = "", now


class RichProgress:
    """A bar with figures, rate and time left, on the terminal's stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = None
        self._pace = Pace(0)

    def start(self, total: int, description: str) -> None:
        """Begins a piece of work of `total` units."""
        self.stop()
        self._pace = Pace(total)
        self._task = self._bar.add_task(description, total=total, figures="")
        self._bar.start()

    def update(self, done: int, **fields: Field) -> None:
        """Moves the bar and shows the figures."""
        if self._task is None:
            return
        self._pace.update(done, time.monotonic(), fields.get("now", ""))
        figures = "  ".join(word for word in (*_words(fields), self._pace.text()) if word)
        self._bar.update(self._task, completed=done, figures=figures)

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """Leaves the bar as it is and gives the terminal back."""
        if self._task is None:
            return
        self._bar.stop()
        self._bar.remove_task(self._task)
        self._task = None


class NotebookProgress:
    """A bar with figures, rate and time left, in the output of a notebook's cell; it needs nothing but IPython.

    (rich draws in notebooks, too, but where ipywidgets is not installed it only warns.)
    """

    def __init__(self, interval: float = 0.25) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        self._html, self._display = HTML, display
        self._interval = interval
        self._place = None
        self._description, self._pace = "", Pace(0)
        self._done, self._figures, self._shown = 0, "", 0.0

    def start(self, total: int, description: str) -> None:
        """Begins a piece of work of `total` units."""
        self.stop()
        self._description, self._pace = description, Pace(total)
        self._done, self._figures, self._shown = 0, "", time.monotonic()
        self._place = self._display(self._html(self._bar()), display_id=True)

    def update(self, done: int, **fields: Field) -> None:
        """Moves the bar and shows the figures, if what is shown is old enough."""
        if self._place is None:
            return
        now = time.monotonic()
        self._pace.update(done, now)
        self._done, self._figures = done, "  ".join(word for word in (*_words(fields), self._pace.text()) if word)
        if now - self._shown >= self._interval:
            self._shown = now
            self._place.update(self._html(self._bar()))

    def message(self, text: str) -> None:
        """Prints a line below the cell."""
        print(text, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Leaves the bar as it is."""
        if self._place is not None:
            self._place.update(self._html(self._bar()))
        self._place = None

    def _bar(self) -> str:
        total = self._pace.total
        words = f"{self._description} {self._done}/{total}  {self._figures}".rstrip()
        return f'<div><progress value="{self._done}" max="{max(total, 1)}"></progress> <code>{html.escape(words)}</code></div>'


class FractionOf:
    """Lets work that reports `(fraction, message)` report to a `Progress`, in percent."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        progress.start(100, description)

    def __call__(self, fraction: float, message: str) -> None:
        """Shows a fraction between 0 and 1 and what is being done."""
        self._progress.update(round(100 * fraction), now=message)


def create() -> Progress:
    """A bar in a notebook or if stderr is a terminal, plain lines otherwise."""
    if in_notebook():
        return NotebookProgress()
    return RichProgress() if sys.stderr.isatty() else PlainProgress()


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, whose output is neither a terminal nor a file."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


def chosen(wanted: Wanted) -> Progress:
    """Who is told.

    Args:
        wanted: a `Progress`; True or False; None: a bar on a terminal or in a notebook, and silence in scripts whose stderr goes to a file.
    """
    if wanted is not None and not isinstance(wanted, bool):
        return wanted
    looked_at = in_notebook() or sys.stderr.isatty() if wanted is None else wanted
    return create() if looked_at else Silent()


@contextlib.contextmanager
def told(wanted: Wanted) -> Iterator[Progress]:
    """Who is told while the block runs (`chosen`); a terminal is given back however it ends."""
    progress = chosen(wanted)
    try:
        yield progress
    finally:
        progress.stop()


@contextlib.contextmanager
def shown() -> Iterator[Progress]:
    """Shows progress while the block runs; the terminal is given back however it ends."""
    with told(True) as progress:
        yield progress


def duration(seconds: float) -> str:
    """A time in words: `8 s`, `4:05`, `2:04:05`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _words(fields: dict[str, Field]) -> list[str]:
    shown = {name.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in fields.items()}
    return [f"{name} {value}" for name, value in shown.items()]
