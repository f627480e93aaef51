"""Exceptions of the library: bad input, and an interrupted run."""


class InputError(ValueError):
    """Bad input. The command line prints it as one line and exits with code 2.

    Args:
        subject: name of what is wrong ("dropout", "archive /data/aclImdb_v1.tar.gz").
        value: the value found; long values are cut to 80 characters.
        remedy: advice to the user.
    """

    def __init__(self, subject: str, value: object, remedy: str):
        shown = " ".join(str(value).split())
        self.subject, self.value, self.remedy = subject, value, remedy
        message = f"{subject}: {shown if len(shown) <= 80 else shown[:77] + '...'}; {remedy}"
        super().__init__(" ".join(message.splitlines()))


class Interrupted(RuntimeError):
    """Run ended by SIGINT or SIGTERM, with the state up to `step` saved. The command line exits with code 130."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"interrupted after step {step}")


def require(condition: bool, subject: str, value: object, remedy: str) -> None:
    """Raise `InputError(subject, value, remedy)` unless `condition` holds."""
    if not condition:
        raise InputError(subject, value, remedy)
