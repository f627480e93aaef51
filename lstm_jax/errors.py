"""The one error that a user can cause: it names the thing, the value and the remedy in a line."""


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


def require(condition: bool, thing: str, value: object, remedy: str) -> None:
    """Raise `InputError(thing, value, remedy)` unless `condition` holds."""
    if not condition:
        raise InputError(thing, value, remedy)
