"""Generator of the reference page of the studies, which are the scripts in experiments/
that have result rows in experiments/results.

For each study, the page shows the docstring of the script, the verdict that the script
prints about the result rows, and the figure. At its end it has the table of the claims.
"""

import importlib
import re
from pathlib import Path

from experiments import claims
from experiments.study import RESULTS, Study, conclude
from lstm_jax.lab import sweep

STUDIES = Path(__file__).parents[1] / "studies.md"
"""Page that shows the same figures, with the alternative texts that this page repeats.
"""


def page() -> str:
    """Return the text of the reference page of the studies, in Markdown, with a section
    for each study that has a result file.
    """
    parts = [
        "# Verdicts of the studies",
        "For each study with committed rows: its question and method as its "
        "script states them, what `python -m experiments.NAME --report` "
        "prints, and the figure that it draws. [Studies](../../studies.md) "
        "says in words what follows from them.",
    ]
    alternatives = {
        name: text
        for text, name in re.findall(
            r"!\[(.*?)\]\(.*?/(\w+)\.png\)", STUDIES.read_text()
        )
    }
    for path in sorted(RESULTS.iterdir()):
        name = path.name.partition(".")[0]
        module = importlib.import_module(f"experiments.{name}")
        figure = f"![{alternatives.get(name, name)}](../../../experiments/figures/{name}.png)"
        parts += [
            f"## Verdict of {name}",
            _block(module.__doc__ or ""),
            _block(_verdict(module.STUDY, path)),
            figure,
        ]
    parts += [
        "## Claims on new seeds",
        (
            "[How certain are the "
            "answers?](../../studies.md#how-certain-are-the-answers) explains the "
            "columns."
        ),
        claims.table(RESULTS),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(study: Study, path: Path) -> str:
    configs = study.presets["full"]
    return conclude(
        study, configs, sweep.existing_rows(study.run, configs, path), path
    )[0]


def _block(text: str) -> str:
    return f"```text\n{text.strip()}\n```"
