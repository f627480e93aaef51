"""Exceptions of the library, for bad input and for interrupted runs."""

import contextlib
import signal
from collections.abc import Collection, Iterator

RESTART = 75
"""Exit code of a training that SIGTERM has ended. The code is EX_TEMPFAIL of
sysexits.h. A scheduler that receives this code should start the same training again,
with `--resume`."""


class InputError(ValueError):
    """Error caused by invalid input. The command line prints the error as one line and
    exits with code 2.

    Args:
        subject: name of the invalid input, such as "dropout" or "archive
            /data/aclImdb_v1.tar.gz".
        value: the invalid value. The message shows at most 80 characters of it.
        remedy: advice to the user on how to correct the input.
    """

    def __init__(self, subject: str, value: object, remedy: str):
        shown = " ".join(str(value).split())
        self.subject, self.value, self.remedy = subject, value, remedy
        message = (
            f"{subject}: {shown if len(shown) <= 80 else shown[:77] + '...'}; {remedy}"
        )
        super().__init__(" ".join(message.splitlines()))

    def __reduce__(self) -> tuple:
        """Return the class and the arguments from which pickle creates the error again,
        for example in the parent of a worker process.

        The attribute `value` of the error is converted to text, because an arbitrary
        object may not support pickling.
        """
        return type(self), (self.subject, str(self.value), self.remedy)


class Interrupted(RuntimeError):
    """Error that ends a training run after SIGINT or SIGTERM.

    The command line then exits with the code in the attribute `code`, which is 75
    (`RESTART`) after SIGTERM and 130 after SIGINT.

    Args:
        step: number of completed training steps. The state after these steps has been
            saved.
        number: number of the signal.
    """

    def __init__(self, step: int, number: int = signal.SIGINT):
        self.step, self.code = step, RESTART if number == signal.SIGTERM else 130
        self.number = number
        super().__init__(f"interrupted after step {step}")

    def __reduce__(self) -> tuple:
        """Return the class and the arguments from which pickle creates the error again
        in another process.
        """
        return type(self), (self.step, self.number)


def system_errors(subject: str, remedy: str) -> contextlib.AbstractContextManager[None]:
    """Return a context manager that converts an `OSError` to an `InputError`, for
    example if a file cannot be written.
    """
    return parsing(subject, remedy, OSError)


@contextlib.contextmanager
def parsing(
    subject: str, remedy: str, kind: type[Exception] = Exception
) -> Iterator[None]:
    """Convert any exception of the class `kind` in a with-statement to an `InputError`.
    An `InputError` is raised again unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except kind as error:
        found = getattr(error, "strerror", None) or f"{error}"
        # whose messages say little alone
        if not found or isinstance(error, LookupError | TypeError | AttributeError):
            found = f"{type(error).__name__}: {found}"
        raise InputError(subject, found, remedy) from error


def require(condition: object, subject: str, value: object, remedy: str) -> None:
    """Raise `InputError(subject, value, remedy)` if `condition` is false."""
    if not condition:
        raise InputError(subject, value, remedy)


def kind_of(value: object) -> str:
    """Return the name of a value's class for an error message, or "class NAME" if the
    value is itself a class.
    """
    return (
        f"class {value.__name__}" if isinstance(value, type) else type(value).__name__
    )


def check_class(subject: str, value: object, kind, remedy: str) -> None:
    """Raise an `InputError` that names the class of `value` unless it is an instance of
    the class `kind`.
    """
    require(isinstance(value, kind), subject, kind_of(value), remedy)


def check_choice(
    subject: str, value: object, choices: Collection[str], other: str = ""
) -> None:
    """Raise an `InputError` unless `value` is one of some names. `other` says in the
    message what may be given in their place.
    """
    require(
        isinstance(value, str) and value in choices,
        subject,
        value,
        f"give {other}one of {', '.join(choices)}",
    )
