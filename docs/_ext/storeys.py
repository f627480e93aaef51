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
BLUE, GREEN, GREY = "#2f6f9f", "#3a7d5c", "#777777"


def layers() -> list[list[str]]:
    """Return the storeys (layers) of the code from top to bottom, each as a list of
    modules.

    Modules of one storey do not import each other.
    """
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter")
    lines = rules["importlinter:contract:layers"]["layers"].split("\n")
    return [
        [name.strip() for name in line.split("|")] for line in lines if line.strip()
    ]


def leaves() -> list[str]:
    """Return the names of the packages called leaves, which the drawing of the code
    shows beside the storeys (layers).

    Leaves may import only modules of the lowest storeys, apart from a few exceptions in
    the file .importlinter.
    """
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter")
    return rules["importlinter:contract:leaves"]["source_modules"].split()


def drawing() -> str:
    """Return the drawing of the storeys (layers) of the code, as SVG text. Its colours
    suit light and dark pages.
    """
    rows = layers()
    beside, main = 190, WIDTH - 190 - 2 * GAP
    height = len(rows) * (HEIGHT + GAP) + 30
    parts = [_label(main / 2, 16, "a module imports only what is below it", GREY)]
    for number, names in enumerate(rows):
        y, width = (
            26 + number * (HEIGHT + GAP),
            (main - GAP * (len(names) - 1)) / len(names),
        )
        for place, name in enumerate(names):
            parts.append(
                _box(
                    place * (width + GAP),
                    y,
                    width,
                    HEIGHT,
                    name,
                    GREEN if name in ("bench", "experiments") else BLUE,
                )
            )
    x, each = main + 2 * GAP, (height - 30) / len(leaves())
    parts.append(_label(x + beside / 2, 16, "leaves: ground floor only", GREY))
    parts += [
        _box(x, 26 + n * each, beside, each - GAP, name, GREY)
        for n, name in enumerate(leaves())
    ]
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
