"""Self-contained HTML pages that open without a network connection, made from a template and data."""

import json
from pathlib import Path
from typing import Any

from lstm_jax.files.writing import MARK


def fill_template(template: Path, data: Any) -> str:
    """Return the HTML text of a page, made from a template, data, and the style sheet and script that all pages share.

    In the template, the first `SHARED_STYLE` is replaced by the content of offline.css, the first `SHARED_SCRIPT` by the content of
    offline.js, and `DATA` in the first `DATA</script>` by the data as JSON. A comment with the text `files.writing.MARK`, which shows that
    lstm-jax wrote the page, is added after `<!doctype html>`.

    Args:
        template: path of the template, which contains `<!doctype html>`, `SHARED_STYLE`, `SHARED_SCRIPT` and `DATA</script>`.
        data: data that JSON can represent. All numbers must be finite.
    """
    text = template.read_text(encoding="utf-8").replace("<!doctype html>", f"<!doctype html>\n<!-- {MARK} -->", 1)
    for name, file in (("SHARED_STYLE", "offline.css"), ("SHARED_SCRIPT", "offline.js")):
        text = text.replace(name, Path(__file__).with_name(file).read_text(encoding="utf-8").rstrip(), 1)
    # "<" is escaped, because "</script" in the data would end the script and "<!--<script" would prevent its end
    return text.replace("DATA</script>", json.dumps(data, allow_nan=False).replace("<", "\\u003c") + "</script>", 1)
