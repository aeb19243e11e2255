"""Stopping a run from outside: Ctrl-C and SIGTERM ask, and the run stops after the step it is in."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

NOTICE = b"\nstopping after this step; what is done is kept; Ctrl-C again stops at once\n"


@dataclass
class Interrupt:
    """Whether a run shall stop: `asked` on this rank; `agreed` on all ranks, after the same step."""

    asked: bool = False
    agreed: bool = False


@contextmanager
def interruptible(quiet: bool = False) -> Iterator[Interrupt]:
    """Take the first SIGINT or SIGTERM as a request to stop; it gives both signals their earlier meaning back, as leaving does.

    Python delivers signals to the main thread only: in another one nothing is changed. `quiet` keeps the notice back.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        interrupt.asked = True
        give_back()
        if not quiet:
            # straight to the terminal: a handler may have come in the middle of another print
            os.write(2, NOTICE)

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, ask) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        give_back()
