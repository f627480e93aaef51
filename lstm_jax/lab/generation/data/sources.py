"""Reading of the articles of a character corpus from text files, folders of text files,
tables or standard input, and their cleaning.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import AnyStr

from lstm_jax.base.checks import checked, frozen
from lstm_jax.base.errors import parsing, require
from lstm_jax.base.types import Texts
from lstm_jax.lab.files.reading import (
    STANDARD_INPUT,
    decode_utf8,
    locate,
    read_input,
    require_no_archive,
)
from lstm_jax.lab.files.tables import has_columns, read_text_column
from lstm_jax.lab.generation.config import Clean as Recipe

_REMOVED = re.compile(r"[^a-zA-Z .,'!;?]+")
_RUN = re.compile(r"  +")
_SPACE = re.compile(r"\s")
# characters of a block; a regex or lower() takes some 60 bytes of memory per character
_BLOCK = 1 << 20


def clean(text: AnyStr, recipe: str = "source") -> AnyStr:
    """Return the text after cleaning it by one of five recipes.

    - "source": every character except English letters, spaces and ``. , ' ! ; ?``
      becomes a space, letters become lower case, runs of spaces become one space, and
      spaces at the start and the end are removed, as in the variant of the Keras
      example lstm_text_generation that this project reproduces. At most 33 distinct
      characters are left.
    - "source-cased": like "source", but letters keep their case.
    - "lower": letters become lower case; in bytes, only ASCII letters.
    - "none" and "exact": the text is unchanged. With any recipe but "exact", and with
      `unit="character"`, `prepare_corpus` and `write_shards` replace the line endings
      of Windows and old Macs by LF before they call `clean`.
    """
    checked("clean", recipe, Recipe)
    if isinstance(text, str):
        return "".join(clean_pieces(blocks(text), recipe))
    if recipe.startswith("source"):
        return clean(text.decode("latin-1"), recipe).encode("latin-1")
    return text.lower() if recipe == "lower" else text


def clean_pieces(pieces: Iterable[str], recipe: str) -> Iterator[str]:
    """Yield a text, which comes in pieces, cleaned; see `clean`. With the recipe
    "lower", no word may be divided.
    """
    gap = begun = False  # whether a space, or any text, stands before a piece
    for piece in pieces:
        if not recipe.startswith("source"):
            yield piece.lower() if recipe == "lower" else piece
            continue
        spaced = _RUN.sub(" ", _REMOVED.sub(" ", piece))
        kept = spaced.strip(" ")
        if recipe == "source":
            kept = kept.lower()
        gap = gap or spaced.startswith(" ")
        if kept:
            yield f" {kept}" if gap and begun else kept
            begun, gap = True, spaced.endswith(" ")


def unix_line_ends(text: str) -> str:
    """Return the text with the line endings of Windows (CR LF) and of old Macs (CR)
    replaced by those of Unix (LF).
    """
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def blocks(text: str):
    """Yield a text in blocks of about `_BLOCK` characters that can be cleaned
    separately.
    """
    start = 0
    while start < len(text):
        space = _SPACE.search(text, start + _BLOCK)
        end = space.end() if space else len(text)
        yield text[start:end]
        start = end


TEXT_ENDINGS = (".txt", ".text", ".md", ".rst")

Paths = str | Path | Sequence[str | Path]


@frozen
class Form:
    """Form in which articles can be given, for example a folder of text files."""

    matches: Callable[[Path], bool]
    """Function that returns whether a path has this form."""
    description: str
    """Name of the form, in error messages and in the documentation."""
    content: str
    """Phrase that describes the content of a source of this form in the documentation.
    """
    files: Callable[[Path], list[Path]] = lambda path: [path]
    """Function that returns the text files at a path, each of which is an article."""
    texts: Callable[[Path, str], list[str]] | None = None
    """Function texts(path, text_column) that returns the articles. Articles of such a
    form cannot be written as shards."""
    example: tuple[str, str] | None = None
    """Name and content of a small file of this form. The documentation shows it. The
    tests read it."""


def _text_files(folder: Path) -> list[Path]:
    with parsing(f"folder {folder}", "give a folder that can be read"):
        files = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in TEXT_ENDINGS
            and path.is_file()
            and path.name[0] != "."
        ]
    require(
        files,
        f"folder {folder}",
        "no text files",
        f"give a folder with files that end in {', '.join(TEXT_ENDINGS)}",
    )
    return sorted(files, key=lambda path: path.name)


FORMS = (
    Form(
        # no other name becomes this path, see `_sources`
        lambda path: str(path) == STANDARD_INPUT,
        f"{STANDARD_INPUT} for standard input",
        "one article",
    ),
    Form(
        Path.is_dir,
        "a folder of text files",
        f"one article in each file that ends in {', '.join(TEXT_ENDINGS)}, by "
        "name; subfolders and hidden files are not read",
        files=_text_files,
    ),
    Form(
        has_columns,
        "a .csv, .json or .jsonl file",
        "one article in each row, in the column that `--text-column` names; a "
        ".json file holds records, strings, or columns as "
        "pandas writes them; .csv.xz and .jsonl.xz are read, too",
        texts=read_text_column,
        example=("articles.csv", "text\nOnce upon a time.\nAnd then?\n"),
    ),
    Form(
        lambda _: True,
        "a text file",
        "one article, whatever the name of the file",
        example=("book.txt", "Once upon a time.\n"),
    ),
)
"""All forms, in the order in which they are tried. A source has the first form that
matches its path. The last form matches every path."""
DESCRIPTION = (
    f"give {', '.join(form.description for form in FORMS[:0:-1])}, or "
    f"{FORMS[0].description}"
)


def read_articles(paths: Paths, text_column: str = "") -> Texts:
    """Read the articles at one or several paths, and return them in the order of the
    paths. Empty articles are left out.

    All files must be UTF-8. Every character is kept except a byte-order mark at the
    start of a file.

    Args:
        paths: one path or a list of paths. A path leads to a file or folder of one of
            the forms in `FORMS`, or is "-" for standard input.
        text_column: name of the column of the texts in tables. If empty, the column is
            guessed.

    Raises:
        InputError: if a file cannot be read, is an archive or is not UTF-8, if a table
            holds invalid JSON or CSV, if the column of the texts in a table is not
            found, or if all articles are empty.
    """
    return _read(paths, text_column, str, decode_utf8)


def read_byte_articles(paths: Paths, text_column: str = "") -> tuple[bytes, ...]:
    """Read articles like `read_articles`, but return them as bytes.

    Text files may have any encoding, and their bytes are returned unchanged. Tables
    must be UTF-8, and their texts are returned as UTF-8.
    """

    def unchanged(content: bytes, path: Path):
        require_no_archive(content, path)
        return content

    return _read(paths, text_column, str.encode, unchanged)


def _read(
    paths: Paths, text_column: str, of_table: Callable, of_file: Callable
) -> tuple:
    articles = []
    sources = [*_sources(paths)]
    for path, form in sources:
        if form.texts:
            articles += map(of_table, form.texts(path, text_column))
        else:
            articles += (of_file(read_input(file), file) for file in form.files(path))
    kept = tuple(filter(None, articles))
    require(
        kept,
        f"corpus {', '.join(str(path) for path, _ in sources)}",
        "no text",
        DESCRIPTION,
    )
    return kept


def embedded_articles() -> Texts:
    """Return about 80 English articles that need no download: the topics of the running
    Python's language reference, sorted by name.

    Raises:
        InputError: if this Python was installed without `pydoc_data`.
    """
    with parsing("embedded corpus", DESCRIPTION, ImportError):
        from pydoc_data.topics import topics
    return tuple(topics[topic] for topic in sorted(topics) if topics[topic])


def _sources(paths: Paths):
    names = [
        str(path) for path in ([paths] if isinstance(paths, str | Path) else paths)
    ]
    require(names and all(names), "corpus", names, DESCRIPTION)
    require(
        names.count(STANDARD_INPUT) < 2, "corpus", "standard input twice", "give - once"
    )
    for name in names:
        path = (
            Path(name)
            if name == STANDARD_INPUT
            else locate(name, "corpus", DESCRIPTION)
        )
        if name != STANDARD_INPUT and str(path) == STANDARD_INPUT:  # the file ./-
            path = path.absolute()
        yield path, next(form for form in FORMS if form.matches(path))


def source_files(paths: Paths) -> list[Path]:
    """Return the text files at one or several paths, in the order in which
    `read_articles` reads them.
    """
    found = []
    for path, form in _sources(paths):
        require(
            not form.texts and form is not FORMS[0],
            "text",
            path,
            "give text files, or folders of text files",
        )
        found += form.files(path)
    return found
