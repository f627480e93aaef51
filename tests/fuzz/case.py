"""Verdict on one case of a fuzzer. All kinds of cases have verdicts of the same class."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.fuzz.shell import Command, Outcome


@dataclass(frozen=True)
class Verdict:
    """Verdict on one case of a fuzzer.

    Attributes:
        line: description of the case for the report.
        ended: exit code of the last command of the case as a string, such as "0", "2"
            or "130".
        fault: description of the fault, or "" if there is none.
        seconds: duration of the last command.
        err: end of the last command's standard error.
    """

    line: str
    ended: str
    fault: str
    seconds: float
    err: str = ""

    @staticmethod
    def of(
        command: Command | str, outcome: Outcome, faults: Iterable[str]
    ) -> "Verdict":
        """Return the verdict on a case whose last command had the given outcome.

        The fault in the verdict is the first of `faults` that is not "". If all of them
        are "", the case has no fault.
        """
        fault = next((fault for fault in faults if fault), "")
        return Verdict(
            shown(command),
            str(outcome.code),
            fault,
            outcome.seconds,
            outcome.err[-3000:],
        )


def shown(command: Command | str) -> str:
    """Return a command as a line that any terminal can print, with long words
    shortened.
    """
    text = str(command).encode("unicode_escape", errors="surrogatepass").decode("ascii")
    return " ".join(
        word if len(word) <= 120 else f"{word[:40]}...({len(word)} characters)"
        for word in text.split(" ")
    )
