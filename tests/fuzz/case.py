"""The result of a case of any kind."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.fuzz.shell import Command, Outcome


@dataclass(frozen=True)
class Verdict:
    """line: what was done, to be read; ended: "0", "2", "130" or what else; fault: empty if all is well; err: the end of standard error."""

    line: str
    ended: str
    fault: str
    seconds: float
    err: str = ""

    @staticmethod
    def of(command: Command | str, outcome: Outcome, faults: Iterable[str]) -> "Verdict":
        """The verdict on a case of one command: the first of its faults that is not empty."""
        fault = next((fault for fault in faults if fault), "")
        return Verdict(shown(command), str(outcome.code), fault, outcome.seconds, outcome.err[-3000:])


def shown(command: Command | str) -> str:
    """A line that can be printed on any terminal, long words cut."""
    text = str(command).encode("unicode_escape", errors="surrogatepass").decode("ascii")
    return " ".join(word if len(word) <= 120 else f"{word[:40]}...({len(word)} characters)" for word in text.split(" "))
