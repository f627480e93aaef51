"""Fuzzer of input files: a valid file of a kind that a command reads is damaged and
given to that command.
"""

import gzip
import io
import json
import lzma
import pickle
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.fuzz.case import Verdict
from tests.fuzz.judge import run_and_judge
from tests.fuzz.mutate import ANY, TEXTUAL, Mutation, mutated
from tests.fuzz.shell import Command, Shell
from tests.fuzz.world import SENTENCES, TRAIN, World, review_lines, review_table, series

REVIEWS = "train sentiment " + TRAIN["sentiment"].replace(
    "--data reviews", "--data FILE"
)
PREPARE = "data prepare --data FILE --vocabulary frequency --cache-dir cache"
SCORE = "score FILE --run runs/generation --unknown e"
SERIES = "train forecast " + TRAIN["forecast"].replace("series.csv", "FILE")
TEXT = "train generation " + TRAIN["generation"].replace("text.txt", "FILE")
PREDICT = "predict --file FILE --run runs/sentiment"
FOREIGN = "foreign.txt"
"""Name of files of kinds that no command reads as a text."""


@dataclass(frozen=True)
class Form:
    """Kind of input file.

    Attributes:
        name: last part of the file's name.
        make: function that returns the content of a valid file. If the name ends in .xz
            or .gz, the content is not yet compressed.
        asks: commands that read the file. Each is a command line with the word FILE in
            place of the file's name, or a function, given as "module:function". A case
            uses one of them, drawn at random.
        kinds: mutations that damage the bytes of the file.
        pack: function that damages the content in a way that suits the format, and
            returns the whole file. If the file is compressed or an archive, the content
            inside it is damaged and packed again. None if there is no such function.
    """

    name: str
    make: Callable[[], bytes]
    asks: tuple[str, ...]
    kinds: tuple[Mutation, ...] = TEXTUAL
    pack: Mutation | None = None


def _records():
    return json.dumps(
        [{"text": SENTENCES, "title": "a cat"}, {"text": SENTENCES, "title": "7"}]
    ).encode()


def _columns():
    return json.dumps(
        {"article": {"0": SENTENCES, "1": None}, "number": {"0": 1, "1": 2}}
    ).encode()


def _table():
    return review_table(random.Random(1), 40).encode()


def _lines():
    return review_lines(random.Random(1), 40).encode()


def _dated():
    lines = (
        f"2024-01-{1 + hour // 24:02d}T{hour % 24:02d}:00,{hour % 7}.5\n"
        for hour in range(96)
    )
    return f"time,value\n{''.join(lines)}".encode()


def _series_lines():
    return "".join(
        json.dumps({"time": hour, "value": hour % 7}) + "\n" for hour in range(96)
    ).encode()


def _tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for split in ("train", "test"):
            for name in ("neg", "pos"):
                for number in range(4):
                    _add(
                        tar,
                        f"aclImdb/{split}/{name}/{number}_{9 if name == 'pos' else 2}.txt",
                        f"a {name} film {number}".encode(),
                    )
                _add(
                    tar,
                    f"aclImdb/{split}/urls_{name}.txt",
                    b"http://www.imdb.com/title/tt0000001/usercomments\n" * 4,
                )
    return file.getvalue()


def _add(tar, name, content, **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def _odd_tar(draw):
    """Return a tar archive with a further member at its end. This member has an odd
    name, and often also an odd type and pax header.
    """
    file = io.BytesIO(_tar())
    names = (
        "aclImdb/train/pos/" + "9" * 5000 + "_9.txt",
        "aclImdb/../x",
        "/etc/x",
        "aclImdb/train/pos/1_9.txt",
        "aclImdb/train/neg/7_٣.txt",
        "",
    )
    kinds = (
        tarfile.REGTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"?",
    )
    heads = (
        {},
        {"size": "-1"},
        {"size": "9" * 20},
        {"mtime": "nan"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    )
    heads += (
        {"GNU.sparse.map": "0,99999999999"},
        {"path": "aclImdb/train/pos/3_9.txt"},
        {"hdrcharset": "x"},
        {"GNU.sparse.size": "1e9"},
    )
    with tarfile.open(fileobj=file, mode="a", format=tarfile.PAX_FORMAT) as tar:
        _add(
            tar,
            draw.choice(names),
            b"text\n" * draw.randint(0, 200),
            type=draw.choice(kinds),
            pax_headers=dict(draw.choice(heads)),
        )
    return file.getvalue()


def _gzip_tar(draw, content):
    inner = _odd_tar(draw) if draw.random() < 0.6 else mutated(draw, content, ANY)[1]
    return gzip.compress(inner) * draw.choice((1, 1, 2))


def _xz(draw, content):
    """Return a valid .xz file with damaged content or, less often, a small .xz file
    that expands to 4 GiB.
    """
    if draw.random() < 0.15:
        return (
            lzma.compress(content)
            + lzma.compress(draw.choice((b" ", b"\n", b"a")) * 2**24, preset=0) * 256
        )
    return lzma.compress(mutated(draw, content, TEXTUAL)[1])


def _safetensors():
    from safetensors.numpy import save

    shapes = {
        "lstm.weight_ih_l0": (16, 3),
        "lstm.weight_hh_l0": (16, 4),
        "lstm.bias_ih_l0": (16,),
        "lstm.bias_hh_l0": (16,),
    }
    shapes |= {"fc.weight": (3, 4), "fc.bias": (3,)}
    return save({name: np.ones(shape, np.float32) for name, shape in shapes.items()})


def _float8(draw, content):
    kinds = (
        b"F8_E4M3",
        b"F8_E5M2",
        b"BF16",
        b"F16",
        b"I64",
        b"BOOL",
        b"F4",
        b"U64",
        b"F32",
    )
    return content.replace(b"F32", draw.choice(kinds), draw.choice((1, -1))).replace(
        b"[0,", draw.choice((b"[0,", b"[-1,", b"[99999999999,"))
    )


def _keras():
    import tempfile

    from lstm_jax import convert

    params = {
        "recurrent/0/kernel": (3, 16),
        "recurrent/0/recurrent_kernel": (4, 16),
        "recurrent/0/bias": (16,),
        "head/kernel": (4, 3),
    }
    arrays = {
        name: np.ones(shape, np.float32)
        for name, shape in (params | {"head/bias": (3,)}).items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.weights.h5"
        convert.write_keras_weights(path, arrays)
        return path.read_bytes()


def _foreign(draw, _):
    latin = SENTENCES.replace("cat", "ch\xe4t").encode("latin-1")
    images = (
        b"\x89PNG\r\n\x1a\n" + draw.randbytes(400),
        b"\xff\xd8\xff\xe0" + draw.randbytes(400),
    )
    packed = gzip.compress(_tar()), lzma.compress(_lines())
    return draw.choice(
        (latin, *images, *packed, pickle.dumps(SENTENCES), _safetensors(), _keras())
    )


FORMS = (
    Form("table.csv", _table, (PREPARE, PREDICT, REVIEWS)),
    Form("table.jsonl", _lines, (PREPARE, PREDICT, REVIEWS)),
    Form("packed.jsonl.xz", _lines, (PREPARE, PREDICT), ANY, _xz),
    Form("reviews.tar.gz", _tar, (PREPARE,), ANY, _gzip_tar),
    Form(
        "index.json",
        lambda: json.dumps({f"w{n}": n for n in range(1, 30)}).encode(),
        ("tests.fuzz.calls:word_index",),
    ),
    Form(
        "words.txt",
        lambda: SENTENCES.encode() * 4,
        (SCORE, "units FILE --count 2 --run runs/generation --unknown e", TEXT),
    ),
    Form(
        "bytes.txt",
        lambda: SENTENCES.encode() * 4,
        (TEXT + " --unit byte", TEXT + " --clean none"),
    ),
    Form("lines.txt", lambda: b"a good film\nbad\n\n" * 3, (PREDICT,)),
    Form(
        FOREIGN,
        bytes,
        (
            PREDICT,
            PREDICT.replace("predict", "inspect"),
            SCORE,
            "forecast --csv FILE --run runs/forecast",
        ),
        ANY,
        _foreign,
    ),
    Form("text.csv", _table, (SCORE,)),
    Form("records.json", _records, (SCORE,)),
    Form("columns.json", _columns, (SCORE,)),
    Form(
        "series.csv",
        lambda: series(random.Random(1)).encode(),
        ("forecast --csv FILE --run runs/forecast", SERIES),
    ),
    Form("dated.csv", _dated, ("forecast --csv FILE --run runs/forecast", SERIES)),
    Form(
        "series.jsonl",
        _series_lines,
        ("forecast --csv FILE --run runs/forecast", SERIES),
    ),
    Form(
        "weights.safetensors",
        _safetensors,
        ("tests.fuzz.calls:torch_file",),
        ANY,
        _float8,
    ),
    Form("x.weights.h5", _keras, ("tests.fuzz.calls:keras_file",), ANY),
)


def hostile(draw: random.Random, form: Form) -> tuple[str, bytes]:
    """Return a description of the damage, and the damaged content of a file of the
    given form.
    """
    content = form.make()
    if form.pack is not None and (form.name == FOREIGN or draw.random() < 0.6):
        return f"repacked by {form.pack.__name__.strip('_')}", form.pack(draw, content)
    if form.name.endswith(".xz"):
        content = lzma.compress(content)
    if form.name.endswith(".gz"):
        content = gzip.compress(content)
    return mutated(draw, content, form.kinds)


def run(draw: random.Random, shell: Shell, world: World) -> Verdict:
    """Damage a file, give it to a command that reads it, and return the verdict.

    If the command removes or changes any file, this is a fault, too.
    """
    form = draw.choice(FORMS)
    what, content = hostile(draw, form)
    ask = draw.choice(form.asks)
    name = f"hostile-{form.name}"
    if ask.startswith("tests."):
        command = Command((name,), call=ask)
    else:
        words = ask.replace("FILE", name).split()
        command = Command(
            (*words, "--run", "new-run") if words[0] == "train" else tuple(words)
        )
    with world.case() as folder:
        (folder / name).write_bytes(content)
        outcome, faults = run_and_judge(command, shell, folder)
    if form.name == FOREIGN and outcome.code == 0:
        faults.append("silent: reads a file of another kind")
    return Verdict.of(f"{command} ({what})", outcome, faults)
