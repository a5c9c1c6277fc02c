"""Ctrl-C and SIGTERM end a run after the step at hand, so that it is saved; a second Ctrl-C ends it at once."""

from __future__ import annotations

import signal

from accelerate import Accelerator

STEPS_BETWEEN_TALKS = 10  # processes agree on the step after which all of them stop


class Interruption:
    """Listens while its context lasts."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.asked = accelerator, False
        self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> Interruption:
        for number in self.before:
            signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame) -> None:
        self.asked = True
        self.accelerator.print("\nStopping after this step. Once more stops at once.")
        self.__exit__()

    def asked_for(self, step: int) -> bool:
        """Whether to stop after this step: the same answer in every process."""
        if self.accelerator.num_processes == 1:
            return self.asked
        if step % STEPS_BETWEEN_TALKS:
            return False
        if self.asked:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()
