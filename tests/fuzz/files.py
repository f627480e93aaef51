"""Fuzzer of files: an input file, or a file of a run or of its data, is damaged, and a
command reads it.

On a damaged input file a command ends without a fault. If a run or its data is damaged,
the command also gives the answer that it gives for the undamaged run, or says in one
line what is wrong.
"""

import gzip
import hashlib
import io
import json
import lzma
import pickle
import random
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.judge import Verdict, fault_of, run_and_judge
from tests.fuzz.mutate import (
    ANY,
    TEXTUAL,
    Mutation,
    edit_digit,
    flip_bit,
    mutated,
    splice,
    truncate,
)
from tests.fuzz.shell import Command, Outcome, Shell
from tests.fuzz.world import (
    ASK,
    SENTENCES,
    TRAIN,
    World,
    review_lines,
    review_table,
    series,
)

REVIEWS = "train sentiment " + TRAIN["sentiment"].replace(
    "--data reviews", "--data FILE"
)
PREPARE = "data prepare --data FILE --vocabulary frequency --cache-dir cache"
SCORE = "score FILE --run runs/generation --unknown e"
SERIES = "train forecast " + TRAIN["forecast"].replace("series.csv", "FILE")
FORECAST = "forecast --csv FILE --run runs/forecast"
TEXT = "train generation " + TRAIN["generation"].replace("text.txt", "FILE")
PREDICT = "predict --file FILE --run runs/sentiment"
FOREIGN = "foreign.txt"
"""Name of files of kinds that no command reads as a text."""


@dataclass(frozen=True)
class Form:
    """Kind of input file.

    Attributes:
        name: last part of the file's name.
        make: function that returns the content of a valid file, not yet compressed.
        asks: command lines that read the file, with the word FILE in place of its name.
        kinds: mutations that damage the bytes of the file.
        pack: function from a source of random numbers and the content to a damaged
            file, for a form that is compressed: what is damaged is inside.
    """

    name: str
    make: Callable[[], bytes]
    asks: tuple[str, ...]
    kinds: tuple[Mutation, ...] = TEXTUAL
    pack: Mutation | None = None


def _records():
    rows = [{"text": SENTENCES, "title": title} for title in ("a cat", "7")]
    return json.dumps(rows).encode()


def _columns():
    table = {"article": {"0": SENTENCES, "1": None}, "number": {"0": 1, "1": 2}}
    return json.dumps(table).encode()


def _table():
    return review_table(random.Random(1), 40).encode()


def _lines():
    return review_lines(random.Random(1), 40).encode()


def _words():
    return SENTENCES.encode() * 4


def _series():
    return series(random.Random(1)).encode()


def _dated():
    lines = [
        f"2024-01-{1 + hour // 24:02d}T{hour % 24:02d}:00,{hour % 7}.5\n"
        for hour in range(96)
    ]
    return f"time,value\n{''.join(lines)}".encode()


def _series_lines():
    rows = ({"time": hour, "value": hour % 7} for hour in range(96))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _tar():
    urls = b"http://www.imdb.com/title/tt0000001/usercomments\n" * 4
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for folder in ("train/neg", "train/pos", "test/neg", "test/pos"):
            split, label = folder.split("/")
            _add(tar, f"aclImdb/{split}/urls_{label}.txt", urls)
            for number in range(4):
                name = f"aclImdb/{folder}/{number}_{9 if label == 'pos' else 2}.txt"
                _add(tar, name, f"a {label} film {number}".encode())
    return file.getvalue()


def _add(tar, name, content, **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


ODD_NAMES = (
    "aclImdb/train/pos/" + "9" * 5000 + "_9.txt",
    "aclImdb/../x",
    "/etc/x",
    "aclImdb/train/pos/1_9.txt",
    "aclImdb/train/neg/7_٣.txt",
    "",
)
ODD_KINDS = (
    tarfile.REGTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
    tarfile.GNUTYPE_SPARSE,
    b"?",
)
ODD_HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"size": "-1"},
    {"size": "9" * 20},
    {"mtime": "nan"},
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    {"GNU.sparse.map": "0,99999999999"},
    {"path": "aclImdb/train/pos/3_9.txt"},
    {"hdrcharset": "x"},
    {"GNU.sparse.size": "1e9"},
)


def _odd_tar(draw, content):
    """Add a member with an odd name, and often an odd type and header, to an archive."""
    file = io.BytesIO(content)
    with tarfile.open(fileobj=file, mode="a", format=tarfile.PAX_FORMAT) as tar:
        text = b"text\n" * draw.randint(0, 200)
        kind, header = draw.choice(ODD_KINDS), dict(draw.choice(ODD_HEADERS))
        _add(tar, draw.choice(ODD_NAMES), text, type=kind, pax_headers=header)
    return file.getvalue()


def _gzip_tar(draw, content):
    if draw.random() < 0.6:
        content = _odd_tar(draw, content)
    else:
        _, content = mutated(draw, content, ANY)
    return gzip.compress(content) * draw.choice((1, 1, 2))


def _xz(draw, content):
    """Compress damaged content or, less often, a small text and 4 GiB of one letter."""
    if draw.random() < 0.15:
        block = lzma.compress(draw.choice((b" ", b"\n", b"a")) * 2**24, preset=0)
        return lzma.compress(content) + block * 256
    return lzma.compress(mutated(draw, content, TEXTUAL)[1])


def _foreign(draw, content):
    return draw.choice(
        (
            content.replace(b"cat", b"ch\xe4t"),
            b"\x89PNG\r\n\x1a\n" + draw.randbytes(400),
            b"\xff\xd8\xff\xe0" + draw.randbytes(400),
            b"\x89HDF\r\n\x1a\n" + draw.randbytes(400),
            gzip.compress(content),
            lzma.compress(content),
            pickle.dumps(SENTENCES),
        )
    )


FORMS = (
    Form("table.csv", _table, (PREPARE, PREDICT, REVIEWS)),
    Form("table.jsonl", _lines, (PREPARE, PREDICT, REVIEWS)),
    Form("packed.jsonl.xz", _lines, (PREPARE, PREDICT), ANY, _xz),
    Form("reviews.tar.gz", _tar, (PREPARE,), ANY, _gzip_tar),
    Form("words.txt", _words, (SCORE, TEXT, f"{TEXT} --unit byte")),
    Form("whole.txt", _words, (f"{TEXT} --clean none",)),
    Form("lines.txt", lambda: b"a good film\nbad\n\n" * 3, (PREDICT,)),
    Form(FOREIGN, _words, (PREDICT, SCORE, FORECAST), ANY, _foreign),
    Form("text.csv", _table, (SCORE,)),
    Form("records.json", _records, (SCORE,)),
    Form("columns.json", _columns, (SCORE,)),
    Form("series.csv", _series, (FORECAST, SERIES)),
    Form("dated.csv", _dated, (FORECAST, SERIES)),
    Form("series.jsonl", _series_lines, (FORECAST, SERIES)),
)


def hostile(draw: random.Random, form: Form) -> tuple[str, bytes]:
    """Return a description of the damage, and the damaged content of a file of the
    given form.
    """
    content = form.make()
    if form.pack is not None and (form.name == FOREIGN or draw.random() < 0.6):
        return form.pack.__name__.strip("_"), form.pack(draw, content)
    if form.name.endswith(".xz"):
        content = lzma.compress(content)
    if form.name.endswith(".gz"):
        content = gzip.compress(content)
    return mutated(draw, content, form.kinds)


def run_input(draw: random.Random, shell: Shell, world: World) -> Verdict:
    """Damage an input file, and let a command read it. A file that the command removes
    or changes is a fault, too.
    """
    form = draw.choice(FORMS)
    what, content = hostile(draw, form)
    name = f"hostile-{form.name}"
    words = draw.choice(form.asks).replace("FILE", name).split()
    if words[0] == "train":
        words += ["--run", "new-run"]
    command = Command(tuple(words))
    with world.case() as folder:
        (folder / name).write_bytes(content)
        outcome, faults = run_and_judge(command, shell, folder)
    if form.name == FOREIGN and outcome.code == 0:
        faults.append("silent: reads a file of another kind")
    return Verdict.of(f"{command} ({what})", outcome, faults)


FREE = re.compile(
    r"^runs/\w+/((events|figures)/|(metrics\.jsonl|samples\.jsonl|result\.json|environment\.json)$)"
)
"""Pattern of the paths of those files of a run that do not influence the answer to any
question."""
DATA = {
    "reviews/*.csv": ASK["sentiment"],
    "cache/*.npz": ASK["sentiment"],
    "text.txt": ASK["generation"],
    "packed.jsonl.xz": ("predict --file packed.jsonl.xz --run runs/sentiment",),
}
"""Dict from patterns of data files to the questions about them.

The series of the task "forecast" is not listed: a user may append rows to it, and a
forecast then begins after the last row.
"""
WRITTEN = ("vectors.txt", "page.html", "model.onnx")
"""Files that questions in `ASK` write, and whose contents are a part of the answer."""


def final(run: Path) -> dict[str, Any]:
    """Return the step, the checksums of all arrays and the rows of metrics, without
    times, of the latest and the best checkpoint of a run.
    """
    found: dict[str, Any] = {}
    for name in ("latest", "best"):
        manifests = (run / "checkpoints" / name).glob("*.manifest.json")
        path = max(manifests, key=lambda path: int(path.name.split(".")[0]))
        manifest = json.loads(path.read_text().partition("\n")[2])
        rows = without_times(manifest["extra"]["rows"])
        found[name] = manifest["step"], manifest["leaves"], rows
    return found


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if "second" not in key}
        for row in rows
    ]


def damage(draw: random.Random, path: Path) -> str:
    """Damage or remove a file, and return a description of the damage. An empty file is
    always removed.
    """
    content = path.read_bytes()
    if not content or draw.random() < 0.07:
        path.unlink()
        return "removed"
    kind = draw.choices((flip_bit, edit_digit, splice, truncate), (60, 15, 10, 8))[0]
    path.write_bytes(kind(draw, content))
    return kind.__name__


def answer(outcome: Outcome, folder: Path) -> str:
    """Return standard output, and a hash of each file in `WRITTEN` that the command
    wrote.
    """
    found = (folder / name for name in WRITTEN if (folder / name).exists())
    hashes = (hashlib.sha256(path.read_bytes()).hexdigest() for path in found)
    return outcome.out + "".join(hashes)


_answers: dict[tuple[Path, str], str] = {}


def expected(question: str, shell: Shell, world: World) -> str:
    """Return the answer of the command `question` for the undamaged run, which is asked
    once.
    """
    if (world.root, question) not in _answers:
        with world.case() as folder:
            outcome = shell.run(Command(tuple(question.split())), folder)
            if outcome.code != 0:
                raise RuntimeError(f"lstm-jax {question}: {outcome.err}")
            _answers[world.root, question] = answer(outcome, folder)
    return _answers[world.root, question]


def choose(draw: random.Random, folder: Path, task: str, pattern: str) -> Path:
    """Draw a file of data that matches the pattern or, without one, of a run.

    Half of the files of a run are drawn from the few that neither belong to a
    checkpoint nor match `FREE`.
    """
    found = [p for p in folder.glob(pattern or f"runs/{task}/**/*") if p.is_file()]
    if not pattern and draw.random() < 0.5:
        found = [
            path
            for path in found
            if "checkpoints" not in path.parts
            and not FREE.search(str(path.relative_to(folder)))
        ]
    return draw.choice(sorted(found))


def run_question(draw: random.Random, shell: Shell, world: World) -> Verdict:
    """Damage a file of a run or of its data, and ask about the run."""
    task = draw.choice(list(ASK))
    pattern = draw.choice(list(DATA)) if draw.random() < 0.2 else ""
    question = draw.choice(DATA[pattern] if pattern else ASK[task])
    right = expected(question, shell, world)
    command = Command(tuple(question.split()))
    with world.case() as folder:
        path = choose(draw, folder, task, pattern)
        name, how = str(path.relative_to(folder)), damage(draw, path)
        outcome = shell.run(command, folder)
        faults = [fault_of(outcome)]
        if outcome.code == 0 and "warning: " not in outcome.err:
            same = answer(outcome, folder) == right
            faults.append("" if same else f"silent: another answer, {_kind(name)}")
    return Verdict.of(f"{name}, {how}; {command}", outcome, faults)


def run_resumed(draw: random.Random, shell: Shell, world: World) -> Verdict:
    """Damage a file of a finished run, resume the run, and ask about it."""
    task = draw.choice(list(ASK))
    right = final(world.start / "runs" / task)
    line = f"train {task} {TRAIN[task]} --run runs/{task} --resume"
    command = Command(tuple(line.split()))
    question = ASK[task][0]
    wanted = expected(question, shell, world)
    with world.case() as folder:
        path = choose(draw, folder, task, "")
        name, how = str(path.relative_to(folder)), damage(draw, path)
        outcome = shell.run(command, folder)
        faults = [fault_of(outcome)]
        if outcome.code == 0:
            same = final(folder / "runs" / task) == right
            faults.append("" if same else f"silent: other bits, {_kind(name)}")
            # `final` reads the checksums of the arrays, and not the arrays
            read = shell.run(Command(tuple(question.split())), folder)
            whole = read.code == 0 and answer(read, folder) == wanted
            faults.append(fault_of(read))
            faults.append("" if whole else f"resumed, not mended, {_kind(name)}")
    return Verdict.of(f"{name}, {how}; {command}", outcome, faults)


def _kind(name: str) -> str:
    """Return a file's name with hashes and numbers replaced by N, so that alike files
    are grouped.
    """
    return re.sub(r"[0-9a-f]{8,}|\d+", "N", name)


def run(draw: random.Random, shell: Shell, world: World) -> Verdict:
    kinds = (run_input, run_question, run_resumed)
    return draw.choices(kinds, (60, 32, 8))[0](draw, shell, world)
