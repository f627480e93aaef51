"""Small runs that the command line trains, for tests of the commands that read a run."""

import os
from pathlib import Path

import pytest
from made_reviews import write_csvs
from made_texts import TEXT

from lstm_jax.lab import cli

SIZES = "--units 8 --batch-size 16 --epochs 1 --learning-rate 0.03 --no-figures"
_REVIEWS = (
    "sentiment --data {root} --cache-dir {root}/cache --vocabulary frequency "
    "--num-words 300 --embed 8"
)
_TEXT = "generation --data {root}/text.txt --length 8 --sample-prompt 6"
RUNS = {
    "sentiment": f"{_REVIEWS} --maxlen 20",
    "masked": f"{_REVIEWS} --maxlen 20 --mask-zero --cell gru --bidirectional --layers 2",
    "packed": f"{_REVIEWS} --packed 40 --bidirectional --pooling mean+max",
    "generation": f"{_TEXT} --step 2 --sample-chars 10",
    "stream": f"{_TEXT} --clean none --regime stream --sample-chars 0 --layers 2",
    "windows": f"{_TEXT} --clean none --step 4 --sample-chars 0 --embed 8 --tied",
    "bytes": f"{_TEXT} --unit byte --step 8 --sample-chars 0",
    "forecast": "forecast --csv {root}/series.csv --context 6 --horizon 2",
}
"""Dict from the name of a run to its task and flags. The run of each task that reads
data has the name of the task."""


class Runs(dict[str, Path]):
    """Dict from the name of a run to its folder. A run is trained when it is first
    read. The folder `root` contains the data.
    """

    def __init__(self, root: Path):
        self.root = write_csvs(root, 160, 60)
        (root / "text.txt").write_text(TEXT)
        (root / "series.csv").write_text(
            "time,value\n" + "".join(f"{n},{n % 7 + n / 10}\n" for n in range(90))
        )

    def __missing__(self, name: str) -> Path:
        self[name] = (
            self.root
            / (
                "a long name of a folder that would not fit into a line of eighty "
                "characters"
            )
            / "[bold]run[/x]"
            / name
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
            assert cli.main(self.command(name, self[name])) == 0
        return self[name]

    def command(self, name: str, folder: Path, *more: str) -> list[str]:
        """Return the command line of the training of a run in a folder. A task without
        a row in `RUNS` makes its data itself.
        """
        flags = f"{RUNS.get(name, name)} {SIZES}".split()
        return [
            "train",
            *(flag.format(root=self.root) for flag in flags),
            "--run",
            str(folder),
            *more,
        ]
