"""HTML pages that show what the network of a trained run does at each step of some
examples; see `inspection.window`.
"""

from lstm_jax.base.errors import require
from lstm_jax.lab import task as base
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.inspection.common import Request
from lstm_jax.lab.inspection.window import Window

__all__ = ["Request", "make_window"]


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
    request = request or Request()
    for name in ("text_column", "unknown"):
        given = getattr(request, name)
        require(
            not given or isinstance(trained, generation.Trained),
            name,
            given,
            "leave it out: only runs of text generation have it",
        )
    return trained.network().window(request)
