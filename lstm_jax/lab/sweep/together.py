"""Groups of runs whose configs differ only in some fields, such as the seed. A group is
one call of the function under `vmap`.
"""

import dataclasses
import re
import traceback
from collections import OrderedDict
from typing import Any

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require
from lstm_jax.base.types import Texts, Values
from lstm_jax.lab.sweep.executors import FAILED
from lstm_jax.lab.sweep.identity import Run, import_name, run_id
from lstm_jax.lab.sweep.rows import Row
from lstm_jax.training.config import flatten


@frozen
class Group:
    """Configs by the ids of their runs, which differ only in the fields `names`, and
    the function that runs them.
    """

    function: Run
    names: Texts
    configs: Values

    def outcomes(self, outcome: Row) -> dict[str, Row]:
        """Return the outcome of each run, from the outcome of `run_group`."""
        count = len(self.configs)
        shared = (
            outcome
            | {"seconds": outcome["seconds"] / count}
            | ({"together": count} if count > 1 else {})
        )
        if outcome["status"] == FAILED:
            return dict.fromkeys(self.configs, shared)
        results = outcome["result"]["results"]
        remedy = (
            "compute with it in JAX and return JAX values, without float(...); "
            "the line is above"
        )
        require(
            results,
            f"function {import_name(self.function)}",
            f"needs the value of {', '.join(self.names)}",
            remedy,
        )
        return {
            key: shared | {"result": result}
            for key, result in zip(self.configs, results, strict=True)
        }


def divide(function: Run, names: Texts, configs: Values) -> dict[str, Group]:
    """Divide configs into groups that differ only in the fields `names`, and return
    each group by the id of its first run.
    """
    groups: dict[Any, Values] = {}
    for key, config in configs.items():
        rest = _replaced(
            config, {name: type(_number(config, name)).__name__ for name in names}
        )
        groups.setdefault((type(config), run_id(function, rest)), {})[key] = config
    return {
        next(iter(group)): Group(function, names, group) for group in groups.values()
    }


def _number(config, name: str) -> int | float:
    fields = flatten(dataclasses.asdict(config))
    value = fields.get(name)
    good = isinstance(value, int | float) and not isinstance(value, bool)
    require(
        good,
        f"together {name}",
        value,
        f"name a field of numbers, of {', '.join(fields)}",
    )
    return fields[name]


def _replaced(config, values: Values) -> Any:
    """Return a copy with other values of some fields, which its class does not check,
    since a traced value cannot be compared.
    """
    new = object.__new__(type(config))
    for own in dataclasses.fields(config):
        object.__setattr__(new, own.name, getattr(config, own.name))
    for name, value in values.items():
        field, _, rest = name.partition(".")
        object.__setattr__(
            new, field, _replaced(getattr(new, field), {rest: value}) if rest else value
        )
    return new


def run_group(group: Group) -> Values:
    """Return the results of all configs of a group, or None in their place if the
    function needs the values of the fields.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from lstm_jax.base.shapes import RUNS

    usual, (first, *others) = nnx.RngStream.__init__, group.configs.values()

    def start(self, key, *, tag):
        is_seed = (
            isinstance(key, jax.Array)
            and key.shape == ()
            and jnp.issubdtype(key.dtype, jnp.integer)
        )
        usual(self, jax.random.key(key) if is_seed else key, tag=tag)

    def run(values):
        return OrderedDict(group.function(_replaced(first, values)))

    if not others:
        return {"results": [dict(group.function(first))]}
    # floats keep their weak type, and a seed is cut to 32 bits, as in a run alone
    columns = {
        name: [_number(config, name) for config in group.configs.values()]
        for name in group.names
    }
    values = {
        name: jnp.stack([n if isinstance(n, float) else np.int64(n) for n in column])
        for name, column in columns.items()
    }
    # this program is called once: on CPUs, a compilation half as long costs little
    # speed
    options = (
        {"xla_backend_optimization_level": 1}
        if jax.default_backend() == "cpu"
        else None
    )
    try:
        nnx.RngStream.__init__ = start  # Flax' own takes a seed only if it is an int
        found = jax.device_get(
            jax.jit(jax.vmap(run, axis_name=RUNS), compiler_options=options)(values)
        )
    except (TypeError, IndexError) as error:
        if not re.search("[Tt]race|concrete|JAX type", str(error)):
            raise
        traceback.print_exc()
        return {"results": None}
    finally:
        nnx.RngStream.__init__ = usual
    return {
        "results": [
            jax.tree.map(lambda leaf, n=n: leaf[n], found)
            for n in range(len(group.configs))
        ]
    }
