"""What all errors that a user can mend have in common."""


class HeadstartError(ValueError):
    """Something a user gave cannot be used; the message says what, where, and how to mend it."""
