"""The contestant's end of the pipe: it answers what it is asked, one line of JSON each, and is idle
in between.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Answers = Mapping[str, Callable[[], dict[str, Any]]]


class Channel:
    """Questions by name on standard input, answers on standard output; what libraries print goes to
    standard error.

    Args:
        answers: what to do for each question, beside "round".
        settle: waits for what a round has begun, where a library returns before its work is done.
    """

    def __init__(self, answers: Answers, settle: Callable[[], object] = lambda: None) -> None:
        self.answers, self.settle = answers, settle
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.began: float | None = None
        self.left = 0  # steps of the round that have not begun

    def step(self) -> None:
        """Called at the beginning of every training step: returns at once within a round, and waits
        between two.
        """
        if not self.left:
            self.between_rounds()
        self.left -= 1

    def between_rounds(self) -> None:
        """Tell how long the round that ends here took, answer questions, and return when the next
        round is asked for.

        A round of training is asked for as "round 60": so many steps. It ends the process when
        nobody is left to ask.
        """
        if self.began is not None:
            self.settle()
            self.say({"seconds": time.perf_counter() - self.began})
        while line := sys.stdin.readline():
            question, *steps = line.split()
            if question == "round":
                self.left = int(*steps)
                self.began = time.perf_counter()
                return
            self.say(self.answers[question]())
        raise SystemExit(0)

    def say(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self.out, flush=True)


def serve(one_round: Callable[[], object], answers: Answers) -> None:
    """For contestants that are no trainings step by step: a round is a call."""
    channel = Channel(answers)
    while True:
        channel.between_rounds()
        one_round()
