"""Where the articles of a character corpus come from: files, folders, tables, standard input, or Python's own documentation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import AnyStr

from lstm_jax.data.text.columns import has_columns, read_text_column
from lstm_jax.data.text_files import STANDARD_INPUT, decode_utf8, read_content, require_no_archive
from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import locate, parsing

TEXT_ENDINGS = (".txt", ".text", ".md", ".rst")
FORMS = "give a text file, a folder of text files, a .csv, .json or .jsonl file, or - for standard input"

Paths = str | Path | Sequence[str | Path]


def read_articles(paths: Paths, text_column: str = "") -> tuple[str, ...]:
    """The articles of one source or several, in the order given; empty ones (and null ones of a table) are dropped.

    - A folder: each file in it, not in folders below it, that ends in .txt, .text, .md or .rst is one article; sorted by name.
    - `.csv`, `.jsonl`, both also `.xz`, and `.json` (records, strings, or pandas' columns): one article a row, in the file's order.
    - Any other file, and "-", standard input: one article. UTF-8; every character is kept, a byte-order mark in front is not.

    Args:
        paths: one path or several.
        text_column: of the tables; empty: see `read_text_column`.

    Raises:
        InputError: for a source that is absent, unreadable, not UTF-8 (with the byte's offset) or of no known form; if no text is left.
    """
    articles: list[str] = []
    for path in _files(paths):
        if has_columns(Path(path)):
            articles += read_text_column(Path(path), text_column)
        else:
            articles.append(decode_utf8(read_content(path), path))
    return _not_empty(articles, paths)


def read_byte_articles(paths: Paths, text_column: str = "") -> tuple[bytes, ...]:
    """The same as bytes: text files as they are, of any encoding; texts of tables, which must be UTF-8, as UTF-8.

    Raises:
        InputError: as `read_articles`, but for text files that are not UTF-8.
    """
    articles: list[bytes] = []
    for path in _files(paths):
        if has_columns(Path(path)):
            articles += (text.encode() for text in read_text_column(Path(path), text_column))
        else:
            articles.append(content := read_content(path))
            require_no_archive(content, path)
    return _not_empty(articles, paths)


def embedded_articles() -> tuple[str, ...]:
    """About 80 articles that need no download: `pydoc_data.topics`, the language reference behind `help()`, sorted by topic.

    The text is that of the running Python and changes with its version.

    Raises:
        InputError: for a Python without its documentation.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError("embedded corpus", "this Python lacks pydoc_data", FORMS) from error
    return tuple(topics[topic] for topic in sorted(topics) if topics[topic])


def _files(paths: Paths) -> Iterator[str | Path]:
    sources = [str(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    require(all(sources) and len(sources) > 0, "corpus", sources, FORMS)
    require(sources.count(STANDARD_INPUT) < 2, "corpus", "standard input twice", "give - once")
    for source in sources:
        if source == STANDARD_INPUT:
            yield source
            continue
        path = locate(source, "corpus", FORMS)
        yield from _text_files(path) if path.is_dir() else (path,)


def _text_files(folder: Path) -> list[Path]:
    with parsing(f"folder {folder}", "give a folder that can be read"):
        files = [path for path in folder.iterdir() if path.suffix.lower() in TEXT_ENDINGS and path.is_file() and path.name[0] != "."]
    require(len(files) > 0, f"folder {folder}", "no text files", f"give a folder with files that end in {', '.join(TEXT_ENDINGS)}")
    return sorted(files, key=lambda path: path.name)


def _not_empty(articles: list[AnyStr], paths: Paths) -> tuple[AnyStr, ...]:
    kept = tuple(article for article in articles if article)
    require(len(kept) > 0, f"corpus {paths}", "no text", FORMS)
    return kept
