"""The contestant's end of the pipe: it answers what it is asked, one line of JSON each, and is idle in between."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Answers = Mapping[str, Callable[[], dict[str, Any]]]


class Channel:
    """Questions by name on standard input, answers on standard output; what libraries print goes to standard error.

    Args:
        answers: what to do for each question, beside "round".
    """

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.began: float | None = None

    def between_rounds(self) -> None:
        """Tell how long the round that ends here took, answer questions, and return when the next round is asked for.

        A library that owns its training loop calls this from a hook at the beginning of every epoch. It ends the process
        when nobody is left to ask.
        """
        if self.began is not None:
            self.say({"seconds": time.perf_counter() - self.began})
        while line := sys.stdin.readline():
            if line.strip() == "round":
                self.began = time.perf_counter()
                return
            self.say(self.answers[line.strip()]())
        raise SystemExit(0)

    def say(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self.out, flush=True)


def serve(one_round: Callable[[], object], answers: Answers) -> None:
    """For contestants whose loop is their own: a round is a call."""
    channel = Channel(answers)
    while True:
        channel.between_rounds()
        one_round()
