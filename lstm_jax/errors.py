"""The one error that a user can cause: it names the thing, the value and the remedy in a line. And the interrupt that is none."""


class InputError(ValueError):
    """Bad input. The command line prints it as one line and exits with code 2.

    Args:
        thing: what is wrong ("dropout", "archive /data/aclImdb_v1.tar.gz").
        value: what was found there; long values are cut to 80 characters.
        remedy: what to do instead.
    """

    def __init__(self, thing: str, value: object, remedy: str):
        shown = " ".join(str(value).split())
        self.thing, self.value, self.remedy = thing, value, remedy
        message = f"{thing}: {shown if len(shown) <= 80 else shown[:77] + '...'}; {remedy}"
        super().__init__(" ".join(message.splitlines()))


class Interrupted(RuntimeError):
    """SIGINT or SIGTERM came; the state up to `step` is saved. The command line exits with code 130."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"interrupted after step {step}")


def require(condition: bool, thing: str, value: object, remedy: str) -> None:
    """Raise `InputError(thing, value, remedy)` unless `condition` holds."""
    if not condition:
        raise InputError(thing, value, remedy)
