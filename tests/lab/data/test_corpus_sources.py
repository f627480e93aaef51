"""Articles are read from every supported kind of source, and invalid sources raise
one-line errors.
"""

import io
import json
import lzma
import sys

import pytest
from made_reviews import write_csv
from refused import refused

from lstm_jax.lab.generation.data import (
    embedded_articles,
    read_articles,
    read_byte_articles,
)

RAW = ("One — first.\n", "zwölf  Boxkämpfer", "3")


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def put_json(path, content):
    return put(path, json.dumps(content))


def test_folder(tmp_path):
    folder = tmp_path / "corpus"
    for name, content in (
        ("b.txt", RAW[0]),
        ("a.MD", RAW[1]),
        ("c.rst", RAW[2]),
        ("d.text", ""),
    ):
        put(folder / name, content)
    for name in ("image.png", "noise", ".hidden.txt", "deeper/e.txt"):
        put(folder / name, b"\xff")
    assert read_articles(folder) == (RAW[1], RAW[0], RAW[2])
    assert read_byte_articles(folder) == tuple(
        text.encode() for text in (RAW[1], RAW[0], RAW[2])
    )


def test_files_as_they_are(tmp_path):
    content = "\ufeffa\r\nb\u2028c\x00\n"
    path = put(tmp_path / "novel", content)
    assert read_articles([path]) == read_articles(str(path)) == (content[1:],)
    assert read_byte_articles(path) == (content.encode(),)


def test_several_in_order(tmp_path, monkeypatch):
    first, second, third = (
        put(tmp_path / "b.txt", "b"),
        put(tmp_path / "a.txt", "a"),
        put_json(tmp_path / "c.json", ["c", "d"]),
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é".encode())))
    assert read_articles([str(first), "-", second, third, first]) == (
        "b",
        "é",
        "a",
        "c",
        "d",
        "b",
    )


ROWS = [
    {"id": n, "title": f"title {n}", "article": text}
    for n, text in enumerate((*RAW, "", None))
]


def test_tables(tmp_path):
    tables = [
        put_json(tmp_path / "records.json", ROWS),
        put_json(
            tmp_path / "columns.JSON",
            {key: {str(n): row[key] for n, row in enumerate(ROWS)} for key in ROWS[0]},
        ),
        put(tmp_path / "lines.jsonl", "\n".join(map(json.dumps, ROWS))),
        put(
            tmp_path / "lines.jsonl.xz",
            lzma.compress("\n".join(map(json.dumps, ROWS)).encode()),
        ),
        write_csv(tmp_path / "table.csv", ROWS, list(ROWS[0])),
        put(
            tmp_path / "bom.json",
            b"\xef\xbb\xbf" + json.dumps(ROWS, ensure_ascii=False).encode(),
        ),
    ]
    for path in tables:
        assert read_articles(path) == read_articles(path, "article") == RAW
        assert read_articles(path, "title") == tuple(f"title {n}" for n in range(5))
        assert read_byte_articles(path) == tuple(text.encode() for text in RAW)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"year": ["1984", ""]}, ("1984",)),  # the only column
        # a column of numbers has no texts
        ({"essay": ["x", "y"], "id": ["1", "2.5"]}, ("x", "y")),
        # pandas writes its index as a column without a name
        ({"": ["0", "1"], "essay": ["x", None]}, ("x",)),
        ({"body": ["x"], "essay": ["y"]}, ("x",)),
        ({"text": [float("nan"), "x"], "stars": [1.5, 2]}, ("x",)),
        # in the order of the file
        ({"article": {"10": "a", "9": "b", "1": "c"}}, ("a", "b", "c")),
    ],
)
def test_column_found(tmp_path, columns, found):
    raw = {
        name: column if isinstance(column, dict) else dict(enumerate(column))
        for name, column in columns.items()
    }
    assert read_articles(put_json(tmp_path / "a.json", raw)) == found


def test_rows_of_several_shapes(tmp_path):
    path = put(
        tmp_path / "a.jsonl", '{"text": "a"}\n{"note": 1}\n{"text": "b", "note": 2}\n'
    )
    assert read_articles(path) == ("a", "b")


def test_bad_sources(tmp_path):
    path = put_json(tmp_path / "a.json", [{"text": "x", "n": 1}])
    refused(
        r"^column 'body' of .*: there are \['n', 'text'\]", read_articles, path, "body"
    )
    for paths, found in (
        ([], "corpus: "),
        (["", "x"], "corpus: "),
        (["-", "-"], "corpus: standard input twice"),
        (tmp_path / "absent.txt", r"corpus .*absent\.txt: no such file"),
        (put(tmp_path / "empty" / "x.csv", "").parent, "folder .*: no text files"),
    ):
        refused(f"^{found}", read_articles, paths)


def test_embedded(monkeypatch):
    articles = embedded_articles()
    assert 60 < len(articles) < 120
    assert sum(map(len, articles)) > 300_000
    assert "assert" in articles[0]
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    refused("embedded corpus: .*; give a text file", embedded_articles)
