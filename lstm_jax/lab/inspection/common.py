"""Frame that the HTML pages of all tasks share.

`Request` holds what the user wants to see. `kept_epochs` loads the parameters of each
epoch that a run has kept. A subclass of `Network` for each task computes what the page
shows.
"""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import jax
import numpy as np
from jax import Array
from numpy import ndarray

from lstm_jax.base.checks import MOST, Bounds, Checked, Count, frozen
from lstm_jax.base.types import Ints, Texts
from lstm_jax.lab import task as base
from lstm_jax.lab.inspection.trace import trace
from lstm_jax.lab.inspection.window import Example, Frame, Layer, Window
from lstm_jax.training import checkpoint
from lstm_jax.training.fit import History

_ORDER = ("input", "forget", "update", "reset", "candidate", "output", "c", "h")
"""Names of the gates and states of a recurrent layer, in the order in which a page
shows them. Names not listed here come first."""


@frozen
class Request(Checked):
    """Examples and epochs that an HTML page about a trained run should show; see
    `make_window`.

    If neither texts nor a file are given, the page shows examples from the held-out
    data of the run.
    """

    texts: Texts = ()
    """Reviews (for a sentiment run) or texts (for a text-generation run) to show."""
    file: Path | None = None
    """File with the examples. Depending on the task, it holds reviews, one text, or one
    series, whose last window is shown."""
    examples: Count = 2
    """Number of examples of each kind that are chosen from the held-out data. For
    reviews, the three kinds are the most certain correct classifications, the most
    certain wrong ones, and the least certain ones."""
    chars: Annotated[int, Bounds(2, MOST, "give 2 or more")] = 200
    """Number of characters that are shown of each text."""
    epochs: Count = 6
    """Largest number of epochs to show. A run that has not kept the parameters of its
    epochs shows its best epoch only."""
    text_column: str = ""
    """Name of the column that holds the texts if `file` is a table.

    If empty, the name in the config of the run is used.
    """
    unknown: str = ""
    """Only for text-generation runs: character that replaces each character outside the
    vocabulary. If empty, such a character raises an error."""


class Epochs(NamedTuple):
    """Training epochs that an HTML page about a run shows, with the parameters of the
    model after each of these epochs.
    """

    numbers: Ints
    """Numbers of the epochs, counted from 1, or (0,) if the number is not known."""
    params: tuple[dict[str, Array], ...]
    """Parameters of each epoch."""
    shown: int
    """Index in `numbers` of the best epoch, which the page shows first."""


def kept_epochs(trained: base.Trained, most: int) -> Epochs:
    """Return the epochs that the run has kept, with their parameters. If it has kept
    none, return its best epoch only.
    """
    folder = trained.run.checkpoints / "epochs"
    steps = checkpoint.steps(folder)
    if not steps:
        number = 0
        # an interrupted run has no result
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            number = int(json.loads(trained.run.result.read_text())["best_epoch"])
        return Epochs((number,), (jax.device_put(trained.params),), 0)

    def restored(index):
        return checkpoint.restore(folder, trained.params, step=steps[index])

    end = len(steps) - 1
    best = (
        min(History.read(restored(end).extra).best_epoch or len(steps), len(steps)) - 1
    )
    spaced = np.linspace(0, end, min(most, len(steps))).round().astype(int).tolist()
    order = sorted(list(dict.fromkeys([best, end, 0, *spaced]))[:most])
    return Epochs(
        tuple(n + 1 for n in order),
        tuple(jax.device_put(restored(n).state) for n in order),
        order.index(best),
    )


def first_kinds(orders: Mapping[str, ndarray], count: int) -> dict[int, str]:
    """Return the first `count` numbers of each order, as a dict from a number to the
    first kind whose order begins with it.
    """
    found: dict[int, str] = {}
    for kind, order in orders.items():
        for n in order[:count].tolist():
            found.setdefault(n, kind)
    return found


class Network(ABC):
    """Trained model of a run, with methods that compute what an HTML page shows of it.

    The methods take the parameters as an argument, so that the page can show the
    results of several epochs of the training.
    """

    title: ClassVar[str]
    kind: ClassVar[str]
    """Kind of the steps of an example; see `Window.kind`."""

    def __init__(self, trained):
        self.trained, self.rebuild = trained, trained.rebuild

        def arrays(params, *args, **options):
            _, layers = trace(
                self.rebuild(params), *args, deterministic=True, **options
            )
            return [
                {
                    (
                        f"{own.layer}, {own.cell}{', reads backwards' * own.backwards}"
                    ): own.gates | own.state
                }
                for own in layers
            ]

        self._arrays = jax.jit(arrays)

    @abstractmethod
    def examples(self, request: Request) -> Mapping:
        """Return the examples that the request names, or examples from the held-out
        data, as a dict with their titles as keys.
        """

    @abstractmethod
    def steps(self, example) -> Sequence[str]:
        """Return the steps of an example as texts."""

    @abstractmethod
    def frame(self, params, example) -> Frame:
        """Return the results for an example."""

    @property
    def about(self) -> str:
        """End of the sentence about the model, and further sentences."""
        return "."

    def neighbours(
        self, examples: Iterable
    ) -> Mapping[str, Sequence[tuple[str, float]]]:
        """Return the words nearest to each word of the examples, with their cosine
        similarities.
        """
        return {}

    def trace(
        self, params, *args, steps: slice | ndarray = slice(None), **options
    ) -> list[Layer]:
        """Return the gates and states of all recurrent layers for a batch of one
        example. JAX compiles this once for each input shape.
        """
        layers = []
        for found in self._arrays(params, *args, **options):
            ((name, arrays),) = found.items()
            keys = sorted(
                arrays,
                key=lambda key: (_ORDER.index(key) if key in _ORDER else -1, key),
            )
            layers.append(
                Layer(
                    name,
                    {
                        key: np.asarray(arrays[key][0], np.float32)[steps]
                        for key in keys
                    },
                )
            )
        return layers

    def window(self, request: Request) -> Window:
        """Return the content of the page."""
        shown = self.examples(request)
        epochs = kept_epochs(self.trained, request.epochs)
        examples = [
            Example(
                name,
                self.steps(own),
                [self.frame(params, own) for params in epochs.params],
            )
            for name, own in shown.items()
        ]
        model = self.trained.config.model
        about = (
            f"{self.trained.run.path}: {model.cell}, {model.layers} x "
            f"{model.units} units{self.about}"
        )
        return Window(
            self.title,
            about,
            self.kind,
            epochs.numbers,
            epochs.shown,
            examples,
            self.neighbours(shown.values()),
        )
