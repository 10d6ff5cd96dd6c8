"""What became of a configuration that was carried through a flow."""

import enum


class Status(enum.IntEnum):
    """How a solve, or a sample, ended; columns of samples hold the numbers.

    Example:
        >>> bf.flows.Status(0).name
        'SOLVED'
        >>> bool((samples.status == bf.flows.Status.SOLVED).all())
        True

    Attributes:
        sentence: what it means, and what can be done.
    """

    sentence: str

    SOLVED = 0, "solved"
    MAX_STEPS = 1, "the solver reached its maximum number of steps; raise flow.solver.max_steps or loosen rtol and atol"
    NOT_FINITE = 2, "the solution is not finite; the network diverges there"
    OTHER_STEREOISOMER = 3, "the sample is another stereoisomer than the target, and has no weight"
    LOST = 4, "the worker that was to draw the sample failed each time; draw it again where there is enough memory"

    def __new__(cls, number: int, sentence: str) -> "Status":
        """A number that has a sentence."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.sentence = sentence
        return member


STATUS_SENTENCES = {status.value: status.sentence for status in Status}
"""The sentence of each number."""
