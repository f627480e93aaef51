"""HTML pages that show what the network of a trained run does at each step of some examples; see `inspection.window`."""

from lstm_jax.errors import InputError, require
from lstm_jax.inspection.window import Window
from lstm_jax.tasks import base, forecast, generation, sentiment
from lstm_jax.tasks.inspecting.common import Request
from lstm_jax.tasks.inspecting.forecasts import forecast_window
from lstm_jax.tasks.inspecting.reviews import review_window
from lstm_jax.tasks.inspecting.texts import text_window

__all__ = ["Request", "make_window"]


def make_window(trained: base.Trained, request: Request | None = None) -> Window:
    """Return the content of an HTML page about a trained run. `inspection.window.write_page` writes the page to a file.

    For each step of each example, the page shows the gates and states of all recurrent layers, and the output of the network. For a review,
    it also shows how much each word contributes to the logit. For a series, it also shows how much each entry contributes to the forecast.
    For a text, it also shows the likeliest next characters.

    Args:
        trained: a loaded run of the task "sentiment", "generation" or "forecast".
        request: the examples and epochs to show. If None, the defaults of `Request` are used.

    Raises:
        InputError: if the run is of another task, if an example cannot be read, if the run's data are needed and have changed, or if the
            request has an option that only runs of text generation have.
    """
    request = request or Request()
    for name in ("text_column", "unknown"):
        given = getattr(request, name)
        require(not given or isinstance(trained, generation.Trained), name, given, "leave it out: only runs of text generation have it")
    match trained:
        case sentiment.Trained():
            return review_window(trained, request)
        case generation.Trained():
            return text_window(trained, request)
        case forecast.Trained():
            return forecast_window(trained, request)
    raise InputError("task", trained.config.task, "give a run of sentiment, generation or forecast")
