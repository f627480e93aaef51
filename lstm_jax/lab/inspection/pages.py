"""HTML pages that show what the network of a trained run does at each step of some
examples; see `inspection.window`.
"""

from lstm_jax.base.errors import require
from lstm_jax.lab import task as base
from lstm_jax.lab.forecast.page import SeriesNetwork
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.page import TextNetwork
from lstm_jax.lab.inspection.common import Network, Request
from lstm_jax.lab.inspection.window import Window
from lstm_jax.lab.sentiment.page import ReviewNetwork

__all__ = ["WINDOWS", "Request", "make_window"]

WINDOWS: dict[str, type[Network]] = {
    "sentiment": ReviewNetwork,
    "generation": TextNetwork,
    "forecast": SeriesNetwork,
}
"""Dict from the name of a task to the class that computes what a page about a run of
the task shows."""


def make_window(trained: base.Trained, request: Request | None = None) -> Window:
    """Return the content of an HTML page about a trained run, for
    `inspection.window.write_page`.

    For each step of each example, the page shows the gates and states of all recurrent
    layers and the output of the network; for a review or a series, also how much each
    word or entry contributes to it, and for a text the likeliest next characters.

    Raises:
        InputError: if the run is of another task, if an example cannot be read, if the
            run's data are needed and have changed, or if the request has an option that
            only runs of text generation have.
    """
    request, task = request or Request(), trained.config.task
    for name in ("text_column", "unknown"):
        given = getattr(request, name)
        require(
            not given or isinstance(trained, generation.Trained),
            name,
            given,
            "leave it out: only runs of text generation have it",
        )
    require(
        task in WINDOWS,
        "task",
        task,
        f"give a run of one of these: {', '.join(WINDOWS)}",
    )
    return WINDOWS[task](trained).window(request)
