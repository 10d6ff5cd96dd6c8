"""A `Progress` that remembers what it is told."""

from boltzflow.progress import Field, Silent


class Recorder(Silent):
    """Remembers pieces of work, what is done of them, and messages.

    Attributes:
        pieces: total and description of each piece.
        done: units done, update by update.
        fields: figures shown beside them.
        messages: lines of text.
    """

    def __init__(self) -> None:
        self.pieces: list[tuple[int, str]] = []
        self.done: list[int] = []
        self.fields: list[dict[str, Field]] = []
        self.messages: list[str] = []

    def start(self, total: int, description: str) -> None:
        """Remembers a piece."""
        self.pieces.append((total, description))

    def update(self, done: int, **fields: Field) -> None:
        """Remembers an update."""
        self.done.append(done)
        self.fields.append(fields)

    def message(self, text: str) -> None:
        """Remembers a line."""
        self.messages.append(text)
