"""Drawing of the storeys (layers) of the code, which shows which modules may import
which others.

A module may import only modules of lower storeys. The storeys are read from the import
rules in the file .importlinter.
"""

import configparser
import html
from pathlib import Path

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT, GAP = 820, 34, 6
ABOVE = ("bench", "experiments", "lstm_jax.lab")
"""What stands on the core."""
BLUE, GREEN, GREY = "#2f6f9f", "#3a7d5c", "#777777"


def layers() -> list[list[str]]:
    """Return the storeys (layers) of the code from top to bottom, each as a list of
    modules.

    Modules of one storey do not import each other.
    """
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter")
    lines = rules["importlinter:contract:floors"]["layers"].split("\n")
    return [
        [name.strip() for name in line.split("|")] for line in lines if line.strip()
    ]


def drawing() -> str:
    """Return the drawing of the storeys (layers) of the code, as SVG text. Its colours
    suit light and dark pages.
    """
    rows = layers()
    height = len(rows) * (HEIGHT + GAP) + 30
    parts = [_label(WIDTH / 2, 16, "a module imports only what is below it", GREY)]
    for number, names in enumerate(rows):
        y = 26 + number * (HEIGHT + GAP)
        width = (WIDTH - GAP * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            parts.append(
                _box(
                    place * (width + GAP),
                    y,
                    width,
                    HEIGHT,
                    name,
                    GREEN if name in ABOVE else BLUE,
                )
            )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} '
        f'{height}" font-family="DejaVu Sans, sans-serif" font-size="12">\n'
        f"{body}\n</svg>\n"
    )


def _box(
    x: float, y: float, width: float, height: float, name: str, colour: str
) -> str:
    short = html.escape(name.removeprefix("lstm_jax."))
    size = min(12.0, 1.6 * width / max(len(short), 1))
    rect = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'rx="4" fill="{colour}"/>'
    )
    middle = (
        f'x="{x + width / 2:.1f}" y="{y + height / 2 + 4:.1f}" text-anchor="middle"'
    )
    return f'{rect}<text {middle} fill="white" font-size="{size:.1f}">{short}</text>'


def _label(x: float, y: float, text: str, colour: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" '
        f'fill="{colour}">{html.escape(text)}</text>'
    )
