"""Description of this machine: hardware, an id made of it, settings, versions, and peak
speeds.

    # measures for half a minute, and writes bench/results/machines/ID.json
    python -m bench machine
    python -m bench machine --out mine.json

The field "machine" of result rows has this id. Machines with equal hardware have the
same id; it contains no name of a host or user. A virtual machine may hide the clock
governor and the caches of its host.
"""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path

from bench import RESULTS, add_flags, hardware, make_parser, timing
from bench.peers import PEERS
from bench.schema import MACHINE, Row, make_row, rounded
from lstm_jax.base.writing import write_atomically
from lstm_jax.lab.runs import folder as run_folder


def describe() -> Row:
    """Measure the peak speeds of this machine, and return the row that describes the
    machine.
    """
    packages = [
        name for peer in PEERS.values() if not peer.missing() for name in peer.packages
    ]
    return make_row(
        MACHINE,
        machine=hardware.machine_id(),
        hardware=hardware.hardware(),
        settings=hardware.settings(),
        versions=run_folder.versions() | run_folder.versions(packages),
        python=platform.python_version(),
        platform=platform.platform(),
        peaks=rounded(timing.peaks()),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def main() -> None:
    """Write the description of this machine to a file, and print it."""
    parser = make_parser(__doc__)
    add_flags(
        parser,
        Path,
        out="file to write or replace; bench/results/machines/ID.json if not given",
    )
    options = parser.parse_args()
    row = describe()
    path = options.out or RESULTS / "machines" / f"{row['machine']}.json"
    text = json.dumps(row, indent=1) + "\n"
    write_atomically(path, text)
    print(f"{text}{path}")
