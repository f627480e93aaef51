"""Generator of the reference page that describes the rows of the result files in bench/results.

The text is read from `bench.schema`. A row is one benchmark result, a JSON object on a line of its own.
"""

from bench.schema import MEASUREMENTS, TYPES, VERSION, described, required_in


def page() -> str:
    """Return the text, in Markdown, of the page about the result files of `bench`: the kinds of measurements, then the fields of a row."""
    kinds = [f"| `{name}` | {kind.meaning} |" for name, kind in MEASUREMENTS.items()]
    fields = []
    for name in TYPES:
        kinds_with = required_in(name)
        needed = "all" if len(kinds_with) == len(MEASUREMENTS) else ", ".join(f"`{kind}`" for kind in kinds_with) or "none"
        fields.append(f"| `{name}` | {' | '.join(described(name))} | {needed} |")
    return "\n".join(
        [
            "# Rows of the benchmarks",
            "",
            "A row of `bench/results/` is a JSON object on a line of its own. "
            f"This is version {VERSION} of its schema; `python -m bench.schema` prints it.",
            "",
            "## Measurements",
            "",
            "| `measurement` | content |",
            "| --- | --- |",
            *kinds,
            "",
            "## Fields",
            "",
            "| field | type | meaning | required in |",
            "| --- | --- | --- | --- |",
            *fields,
            "",
        ]
    )
