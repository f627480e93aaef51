"""Articles are read from every supported kind of source, and invalid sources raise one-line errors."""

import csv
import gzip
import io
import json
import lzma
import sys

import pytest

from lstm_jax.data import embedded_articles, read_articles, read_byte_articles
from lstm_jax.errors import InputError

RAW = ("One — first.\n", "zwölf  Boxkämpfer", "3")


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def put_json(path, content, **options):
    return put(path, json.dumps(content, **options))


def put_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_folder(tmp_path):
    folder = tmp_path / "corpus"
    for name, content in (("b.txt", RAW[0]), ("a.MD", RAW[1]), ("c.rst", RAW[2]), ("d.text", "")):
        put(folder / name, content)
    for name in ("image.png", "noise", ".hidden.txt", "deeper/e.txt"):
        put(folder / name, b"\xff")
    assert read_articles(folder) == (RAW[1], RAW[0], RAW[2])
    assert read_byte_articles(folder) == tuple(text.encode() for text in (RAW[1], RAW[0], RAW[2]))
    with pytest.raises(InputError, match=r"folder .*: no text files; give a folder with files that end in \.txt, \.text, \.md, \.rst"):
        read_articles(put(tmp_path / "empty" / "x.csv", "").parent)


def test_files_as_they_are(tmp_path):
    content = "\ufeffa\r\nb\u2028c\x00\n"
    path = put(tmp_path / "novel", content)
    assert read_articles([path]) == read_articles(str(path)) == (content[1:],)
    assert read_byte_articles(path) == (content.encode(),)


def test_a_file_named_as_standard_input(tmp_path, monkeypatch):
    (tmp_path / "-").write_text("a file")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"standard input")))
    assert read_articles("./-") == ("a file",)
    assert read_articles("-") == ("standard input",)


def test_several_in_order(tmp_path, monkeypatch):
    first, second = put(tmp_path / "b.txt", "b"), put(tmp_path / "a.txt", "a")
    third = put_json(tmp_path / "c.json", ["c", "d"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é".encode())))
    assert read_articles([str(first), "-", second, third, first]) == ("b", "é", "a", "c", "d", "b")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert read_byte_articles("-") == (b"\xff",)
    with pytest.raises(InputError, match="standard input twice"):
        read_articles(["-", "-"])


ROWS = [{"id": n, "title": f"title {n}", "article": text} for n, text in enumerate((*RAW, "", None))]


def test_tables(tmp_path):
    tables = [
        put_json(tmp_path / "records.json", ROWS),
        put_json(tmp_path / "columns.JSON", {key: {str(n): row[key] for n, row in enumerate(ROWS)} for key in ROWS[0]}),
        put(tmp_path / "lines.jsonl", "\n".join(map(json.dumps, ROWS))),
        put(tmp_path / "lines.jsonl.xz", lzma.compress("\n".join(map(json.dumps, ROWS)).encode())),
        put_csv(tmp_path / "table.csv", [list(ROWS[0]), *(row.values() for row in ROWS)]),
        put(tmp_path / "bom.json", b"\xef\xbb\xbf" + json.dumps(ROWS, ensure_ascii=False).encode()),
    ]
    for path in tables:
        assert read_articles(path) == read_articles(path, "article") == RAW
        assert read_articles(path, "title") == tuple(f"title {n}" for n in range(5))
        assert read_byte_articles(path) == tuple(text.encode() for text in RAW)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"year": ["1984", ""]}, ("1984",)),  # the only column
        ({"essay": ["x", "y"], "id": ["1", "2.5"]}, ("x", "y")),  # a column of numbers has no texts
        ({"": ["0", "1"], "essay": ["x", None]}, ("x",)),  # pandas writes its index as a column without a name
        ({"Text": ["x"], "title": ["t"]}, ("x",)),
        ({"body": ["x"], "essay": ["y"]}, ("x",)),
        ({"text": [float("nan"), "x"], "stars": [1.5, 2]}, ("x",)),
    ],
)
def test_column_found(tmp_path, columns, found):
    assert read_articles(put_json(tmp_path / "a.json", {name: dict(enumerate(column)) for name, column in columns.items()})) == found


def test_column_order_is_the_files(tmp_path):
    assert read_articles(put_json(tmp_path / "a.json", {"article": {"10": "a", "9": "b", "1": "c"}})) == ("a", "b", "c")


def test_rows_of_several_shapes(tmp_path):
    path = put(tmp_path / "a.jsonl", '{"text": "a"}\n{"note": 1}\n{"text": "b", "note": 2}\n')
    assert read_articles(path) == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.txt", b"ab\xe9cd", r"file .*a\.txt: byte 0xe9 at offset 2 is not UTF-8; convert the file to UTF-8, or read .* as bytes"),
        ("a.json", b'{"text": {"0": "\xe9"}}', "byte 0xe9 at offset 16"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xe9"}', "line 2 of .*save the file as UTF-8"),
        ("a.csv", b"text\nx\n\xe9\n", "line 3 of .*save the file as UTF-8"),
        ("a.json", b'["\\ud800"]', "'text' in record 1 of .*save the text as UTF-8"),
        ("a.json", b'{"text": ', r'JSON .*a\.json: .*; give \[\{"text": \.\.\.\}, \.\.\.\] or'),
        ("a.json", b'{"text": "x"}\n{"text": "y"}', "Extra data.*name it .jsonl if each line is an object"),
        ("a.json", b"[" * 200_000, "JSON .*recursion"),
        (
            "a.json",
            b'{"one": {"0": "x"}, "two": {"0": "y"}}',
            r"column of the texts of .*: one of \['one', 'two'\]; name it with --text-col",
        ),
        ("a.json", b'{"text": {"0": "x"}, "body": {"0": "y"}}', r"one of \['body', 'text'\]"),
        ("a.json", b'{"text": {"0": 5}}', "'text' in row 0 of .*: 5; give a string"),
        ("a.json", b"[]", "corpus .*: no text"),
        ("a.json", b'{"text": {"0": null, "1": ""}}', "corpus .*: no text"),
        ("a.csv", b"text\na,b\n", "line 2 of .*1 fields too many"),
        ("a.csv", gzip.compress(b"text\na b\n", mtime=0), r"file .*a\.csv: is compressed by gzip, not a text; unpack it with gunzip"),
        ("a.csv.xz", lzma.compress(gzip.compress(b"text\na b\n", mtime=0)), r"file .*a\.csv\.xz: is compressed by gzip, not a text"),
        ("a.jsonl", b"PK\x03\x04\0\0", r"file .*a\.jsonl: is a .*, not a text"),
        ("a.csv", b"id\ttext\n1\ta b\n", r"only one, 'id\\ttext'; separate the columns by commas"),
        ("a.jsonl.xz", b"\xfd7zXZ", r"file .*a\.jsonl\.xz: .*; give a complete file"),
    ],
)
def test_bad_files(tmp_path, name, content, found):
    with pytest.raises(InputError, match=found) as caught:
        read_articles(put(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_bad_columns(tmp_path):
    path = put_json(tmp_path / "a.json", [{"text": "x", "n": 1}, {"text": "y", "n": 2}])
    with pytest.raises(InputError, match=r"column 'body' of .*: there are \['n', 'text'\]; name one with --text-column"):
        read_articles(path, "body")
    with pytest.raises(InputError, match=r"'n' in record 1 of .*: 1; give a string"):
        read_articles(path, "n")


def test_sources_that_are_none(tmp_path):
    for paths in ([], "", ["", "x"]):
        with pytest.raises(InputError, match=r"corpus: .*give a text file, a .csv"):
            read_articles(paths)
    with pytest.raises(InputError, match=r"corpus .*absent\.txt: no such file or folder"):
        read_articles(tmp_path / "absent.txt")


def test_embedded(monkeypatch):
    articles = embedded_articles()
    assert 60 < len(articles) < 120
    assert sum(map(len, articles)) > 300_000
    assert "assert" in articles[0]
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match="embedded corpus: this Python lacks pydoc_data; give a text file"):
        embedded_articles()
