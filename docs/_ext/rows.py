"""Reference page of the rows in bench/results, made from their schema."""

from bench.schema import FIELDS, MEASUREMENTS, NONE, VERSION


def page() -> str:
    """Return the page of the schema: the kinds of measurements, then the fields."""
    kinds = [f"| `{name}` | {meaning} |" for name, meaning in MEASUREMENTS.items()]
    fields = []
    for name, field in FIELDS.items():
        types = " or ".join("null" if kind is NONE else kind.__name__ for kind in field.types)
        needed = "all" if set(field.required) == set(MEASUREMENTS) else ", ".join(f"`{kind}`" for kind in field.required) or "none"
        fields.append(f"| `{name}` | {types} | {field.meaning} | {needed} |")
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
