"""Small copies of the archive and the folder of the Large Movie Review Dataset are
read; damaged or unsafe copies are refused.
"""

import tarfile
import urllib.request
from io import BytesIO

import pytest
from made_reviews import made_rows, members
from refused import refused

from lstm_jax.lab.sentiment.data import (
    download_archive,
    load_reviews,
    prepare,
    reviews,
    verify_archive,
)


def check(splits):
    for name in ("train", "test"):
        split = splits[name]
        expected = {
            f"{'pos' if row['label'] else 'neg'}/{row['id']}_{row['rating']}.txt": row
            for row in made_rows(name)
        }
        assert set(split.names) == set(expected)
        for text, label, file, movie in zip(
            split.texts, split.labels, split.names, split.groups, strict=True
        ):
            row = expected[file]
            assert (text, label, movie) == (
                row["text"].encode(),
                row["label"],
                row["movie"],
            )


def test_archive_folder_and_its_parent(archive, folder):
    for path in (archive(), folder, str(folder.parent)):
        check(load_reviews(path))


def test_another_encoding(folder, archive):
    """In a folder and in an archive, a review in UTF-16 is refused, and a byte-order
    mark at the start of a review in UTF-8 is removed.
    """
    path = next(folder.glob("train/pos/*.txt"))
    text, name = path.read_bytes(), f"train/pos/{path.name}"
    path.write_bytes(b"\xef\xbb\xbf" + text)
    check(load_reviews(folder))
    check(load_reviews(archive(files=members() | {name: path.read_bytes()})))
    path.write_bytes(text.decode().encode("utf-16"))
    for source in (folder, archive(files=members() | {name: path.read_bytes()})):
        refused(
            rf"^file {name} in .*: byte 0xff at offset 0 is not UTF-8: the "
            r"file is UTF-16",
            load_reviews,
            source,
        )


@pytest.mark.parametrize("name", ["p1.txt", "5_10.TXT", "5-10.txt"])
def test_a_review_of_another_name_is_not_left_out(folder, archive, name):
    # a file that a system adds is no review
    (folder / "train" / "pos" / "._5_10.txt").write_text("x")
    check(load_reviews(folder))
    (folder / "train" / "pos" / name).write_text("good")
    refused(
        rf"^review .*/train/pos/{name}: not named ID_RATING.txt", load_reviews, folder
    )
    refused(
        rf"^review aclImdb/train/pos/{name} in .*\.tar\.gz: not named ID_RATING.txt",
        load_reviews,
        archive(files=members() | {f"train/pos/{name}": b"good"}),
    )


def test_texts_are_bytes(archive):
    texts = {
        "train/pos/0_9.txt": b"\xff\xff caf\xe9",
        "train/neg/0_1.txt": b"nul \x00 here",
        "train/neg/1_1.txt": b"",
    }
    split = load_reviews(archive(files=texts))["train"]
    assert split.texts == tuple(texts.values())
    assert split.groups is None


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_a_link_or_a_device_is_refused(archive, kind):
    info = tarfile.TarInfo("aclImdb/train/pos/99_9.txt")
    info.type, info.linkname = kind, "/etc/passwd"
    refused(
        "member aclImdb/train/pos/99_9.txt of .*: no plain file",
        load_reviews,
        archive(info),
    )


def test_every_truncation_and_flip_is_found(archive):
    path = archive()
    whole = path.read_bytes()
    places = range(0, len(whole), max(1, len(whole) // 40))
    flipped = [
        whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]
        for place in places
        if place >= 20
    ]
    for content in [whole[:-1], *(whole[:length] for length in places), *flipped]:
        path.write_bytes(content)
        refused(r"small.tar.gz", load_reviews, path)


def test_one_class_or_nothing_is_refused(archive, folder):
    refused(
        "1 positive and 0 negative",
        load_reviews,
        archive(files={"train/pos/0_9.txt": b"good"}),
    )
    refused("holds training reviews", load_reviews, archive(files={"README": b""}))
    for file in (folder / "test" / "neg").iterdir():
        file.unlink()
    refused(r"test split of .*12 positive and 0 negative", load_reviews, folder)


def test_wrong_checksum(archive, tmp_path, monkeypatch):
    path = archive().rename(tmp_path / reviews.ARCHIVE_NAME)
    # `prepare` would next download the word index
    for read in (load_reviews, lambda path: prepare(data=str(path))):
        refused(r"size of .* instead of 84125825.*download it again", read, path)
    monkeypatch.setattr(reviews, "ARCHIVE_BYTES", path.stat().st_size)
    refused(
        r"sha256 of .* instead of c40f74a1.*download it again", verify_archive, path
    )
    check(load_reviews(path, verify=False))
    check(load_reviews(tmp_path, verify=False))
    refused("absent", verify_archive, tmp_path / "nothing.tar.gz")


def test_download(archive, tmp_path, monkeypatch):
    refused(
        "no network in tests; give --data the path of a local copy",
        download_archive,
        tmp_path / "new",
    )
    assert list((tmp_path / "new").iterdir()) == []

    content = archive().read_bytes()

    class Reply(BytesIO):
        headers = {"Content-Length": str(len(content))}  # noqa: RUF012

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Reply(content))
    refused("size of", download_archive, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []

    monkeypatch.setattr(reviews, "verify_archive", lambda path: None)
    seen = []
    path = download_archive(
        tmp_path / "new", lambda done, total: seen.append((done, total))
    )
    assert path.read_bytes() == content
    assert seen[-1] == (len(content), len(content))
    monkeypatch.setattr(urllib.request, "urlopen", None)
    assert download_archive(tmp_path / "new") == path
