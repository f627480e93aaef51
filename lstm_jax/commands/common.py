"""What the commands share: starting JAX, and printing lines as they are."""

import sys
from collections.abc import Iterable

import tyro
from rich.console import Console

from lstm_jax.config import RecurrentConfig

Flat = tyro.conf.OmitArgPrefixes
Positional = tyro.conf.Positional


def start(devices: int = 0) -> None:
    """Give JAX a device a core, before it is first used, and let it keep what it compiles."""
    from lstm_jax.runtime.compilation_cache import keep_compiled
    from lstm_jax.runtime.sharding import use_cpu_cores

    use_cpu_cores(devices)
    keep_compiled()


def start_training(devices: int, model: RecurrentConfig) -> None:
    """The same for a run with that model: without a number of devices that which suits it, if JAX has not made them already."""
    from lstm_jax.recurrence import cpu_devices
    from lstm_jax.runtime.compilation_cache import keep_compiled
    from lstm_jax.runtime.sharding import prefer_cpu_devices

    zoned = model.zoneout or model.zoneout_cell
    suited = 0 if zoned else cpu_devices(model.backend, model.dtype, model.cell)
    if devices:
        start(devices)
        return
    prefer_cpu_devices(suited)
    keep_compiled()


def warn(notes: Iterable[str]) -> None:
    """Notes as warnings on standard error."""
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)


def say(console: Console, line: str) -> None:
    """A line as it is: not wrapped, brackets are no markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
