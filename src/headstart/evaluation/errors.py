"""What goes wrong with an evaluation as a whole."""

from headstart.errors import HeadstartError


class EvaluationError(HeadstartError):
    """An evaluation cannot start or go on; the message says why, and how to mend it."""
