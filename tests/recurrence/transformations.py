"""The table of JAX's transformations by backend. `python
tests/recurrence/transformations.py` writes docs/reference/transformations.md.

Each transformation is compiled, and its results are compared with those of the backend
`reference` or, if the batch is sharded, with those on one device. The text of the
compiled program shows whether the backend's own code or that of `reference` computed
the results. Further rows of the table, such as "program for tpu", are for programs that
are exported for a platform. These programs are not run. Only their text is examined.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

from jax.sharding import AxisType, NamedSharding, PartitionSpec

sys.path.insert(0, str(Path(__file__).parents[1]))
from cases import Arrays, Case, make_arrays, run_case, usable, weigh
from tables import Shape, assert_close

from lstm_jax import native

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "transformations.md"


class Column(NamedTuple):
    """Column of the table: a backend and a cell.

    Each is the default for some calls on a CPU, with or without C++ code.
    """

    backend: str
    cell: str


COLUMNS = (
    Column("compiled", "lstm"),
    Column("compiled", "gru"),
    Column("compiled", "min_gru"),
    Column("compiled", "slstm"),
    Column("compiled", "lru"),
    Column("hoisted", "lstm"),
    Column("reference", "lstm"),
    Column("associative", "min_gru"),
    Column("chunkwise", "mlstm"),
)
SHAPE = Shape(4, 3, 2, 3)
Loss = Callable[..., jax.Array]


class Problem(NamedTuple):
    """Function loss(params, x) of a backend, its arguments, and stacks of three values
    of each argument.
    """

    loss: Loss
    params: Any
    x: jax.Array
    many_params: Any
    many_x: jax.Array


@cache
def problem(cell: str, backend: str) -> Problem:
    """Return the problem of a cell on a backend, with a mask, resets, input dropout
    and, if the cell allows it, recurrent dropout.
    """
    case = usable(Case(SHAPE, mask="gaps", dropout="both, per gate", resets=True), cell)
    sets = [make_arrays(case._replace(seed=seed), cell=cell) for seed in range(3)]

    def loss(params, x):
        return weigh(run_case(case, Arrays(params, x, *sets[0][2:]), backend, cell))

    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *((arrays.params, arrays.x) for arrays in sets),
    )
    return Problem(loss, sets[0].params, sets[0].x, *stacked)


def _both(loss: Loss) -> Loss:
    return jax.grad(loss, (0, 1))


def _squares(tree: Any) -> jax.Array:
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(tree))


def _scanned(p: Problem):
    return jax.lax.scan(
        lambda total, x: (total + p.loss(p.params, x), _both(p.loss)(p.params, x)),
        jnp.zeros(()),
        p.many_x,
    )


def _jvp_of_grad(p: Problem):
    return jax.jvp(lambda x: _both(p.loss)(p.params, x), (p.x,), (p.x,))


def _ensemble(p: Problem):
    return jax.grad(lambda many, x: jax.vmap(p.loss, (0, None))(many, x).sum(), (0, 1))(
        p.many_params, p.x
    )


ALONE: dict[str, Callable[[Problem], Any]] = {
    "jit": lambda p: p.loss(p.params, p.x),
    "grad": lambda p: _both(p.loss)(p.params, p.x),
    "grad of grad": lambda p: jax.grad(lambda x: _squares(_both(p.loss)(p.params, x)))(
        p.x
    ),
    "jvp": lambda p: jax.jvp(p.loss, (p.params, p.x), (p.params, p.x)),
    "jacfwd": lambda p: jax.jacfwd(p.loss, 1)(p.params, p.x),
    "jacrev": lambda p: jax.jacrev(lambda x: _both(p.loss)(p.params, x)[0][-1])(p.x),
    "hessian": lambda p: jax.hessian(
        lambda kernel: p.loss(p.params._replace(kernel=kernel), p.x)
    )(p.params.kernel),
    "jvp of grad": _jvp_of_grad,
    "checkpoint": lambda p: _both(jax.checkpoint(p.loss))(p.params, p.x),
    "inside scan": _scanned,
    "vmap over x": lambda p: jax.vmap(partial(p.loss, p.params))(p.many_x),
    "grad of vmap over x": lambda p: jax.grad(
        lambda params: jax.vmap(partial(p.loss, params))(p.many_x).sum()
    )(p.params),
    "vmap over x of grad": lambda p: jax.vmap(partial(_both(p.loss), p.params))(
        p.many_x
    ),
    "vmap over parameters of grad": lambda p: jax.vmap(_both(p.loss), (0, None))(
        p.many_params, p.x
    ),
    "grad of vmap over parameters": _ensemble,
    "vmap over parameters, then over x": lambda p: jax.vmap(
        lambda x: jax.vmap(_both(p.loss), (0, None))(p.many_params, x)
    )(p.many_x),
}
"""Dict from the name of a transformation on one device to a function that applies it to
a `Problem`."""


class Sharded(NamedTuple):
    """Way to split a batch over two devices.

    Attributes:
        axes: type of the mesh axis.
        is_set: whether the mesh is set by `jax.set_mesh`.
        check_vma: argument of `jax.shard_map`, or None if `jax.shard_map` is not used.
    """

    axes: AxisType
    is_set: bool
    check_vma: bool | None = None


SHARDED = {
    "batch sharded, automatic mesh": Sharded(AxisType.Auto, False),
    "batch sharded, automatic mesh, set_mesh": Sharded(AxisType.Auto, True),
    "batch sharded, explicit mesh": Sharded(AxisType.Explicit, False),
    "batch sharded, explicit mesh, set_mesh": Sharded(AxisType.Explicit, True),
    "shard_map": Sharded(AxisType.Auto, False, True),
    "shard_map, check_vma=False": Sharded(AxisType.Auto, False, False),
}
"""Dict from the name of a row of the table to the way in which the batch is split.

The mesh axis is called "rows", which is not the name of the library's own mesh axis.
"""


def _sharded_gradient(p: Problem, how: Sharded, mesh) -> Callable:
    if how.check_vma is None:
        return _both(p.loss)
    # under shard_map a device sees only its own rows, so that the loss must not contain
    # arrays of the whole batch; see `simple_problem`
    rows, copied = PartitionSpec("rows"), PartitionSpec()

    def of_part(params, x):
        d_params, d_x = _both(p.loss)(params, x)
        return d_params if how.check_vma else jax.lax.psum(d_params, "rows"), d_x

    return jax.shard_map(
        of_part,
        mesh=mesh,
        in_specs=(copied, rows),
        out_specs=(copied, rows),
        check_vma=how.check_vma,
    )


@cache
def expected(name: str, cell: str) -> Any:
    """Return the results of the transformation `name` with the backend `reference` on
    one device.

    The results are cached, because those of all other backends are compared with them.
    """
    loss, *arrays = problem(cell, "reference")
    return jax.jit(lambda *args: ALONE[name](Problem(loss, *args)))(*arrays)


@cache
def simple_problem(column: Column) -> Problem:
    """Return the problem of a table column in which only x has a batch axis, so that
    each device can use its own rows of x.
    """
    backend, cell = column
    arrays = make_arrays(Case(SHAPE), cell=cell)

    def loss(params, x):
        outputs, state = run_case(
            Case(SHAPE), Arrays(params, x, None, arrays.dropout, None), backend, cell
        )
        return _squares((outputs, state))

    return Problem(loss, arrays.params, arrays.x, None, arrays.x)


def text_of(compiled: str, column: Column, sharded: bool = False) -> str:
    """Return the table entry that follows from the text of a compiled program.

    The entry is "exact, gathers the batch" if a program for two devices gathers the
    batch, "exact through reference" if a program of `compiled` runs the code of
    `reference`, and otherwise "exact".
    """
    if sharded and ("all-gather" in compiled or "all-to-all" in compiled):
        return "exact, gathers the batch"
    if column.backend != "compiled":
        return "exact"
    called = "lstm_jax_forward" in compiled or "lstm_jax_linear_forward" in compiled
    return "exact" if called and "while(" not in compiled else "exact through reference"


def alone(name: str, column: Column) -> str:
    """Return the entry, such as "exact", for a transformation on one device in the
    table of docs/reference/transformations.md.

    Raises:
        AssertionError: if the results are not close to those of the backend
            `reference`.
    """
    p, want = problem(column.cell, column.backend), expected(name, column.cell)
    if column.backend == "reference":  # it is what the others are compared with
        return "exact"
    run = (
        jax.jit(lambda params, x, *many: ALONE[name](Problem(p.loss, params, x, *many)))
        .lower(*p[1:])
        .compile()
    )
    assert_close(run(*p[1:]), want, "float32", f"{name} {column} ")
    text = run.as_text()
    if name == "inside scan":  # the loop is the caller's
        return (
            "exact"
            if column.backend != "compiled" or text.count("while(") == 1
            else "exact through reference"
        )
    return text_of(text, column)


@cache
def on_one_device(column: Column) -> Any:
    """Return the gradients of `simple_problem(column)` on one device.

    The gradients are cached, because those of all shardings are compared with them.
    """
    p = simple_problem(column)
    return jax.jit(_both(p.loss))(p.params, p.x)


def sharded(name: str, column: Column) -> str:
    """Return the table entry for a batch that is split over two devices.

    Raises:
        AssertionError: if the gradients are not close to those on one device, if the
            gradient of x is not split, or if the gradients of the parameters are not
            summed over the devices.
    """
    how, p = SHARDED[name], simple_problem(column)
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(how.axes,))
    placed = (
        jax.device_put(p.params, NamedSharding(mesh, PartitionSpec())),
        jax.device_put(p.x, NamedSharding(mesh, PartitionSpec("rows"))),
    )
    with jax.set_mesh(mesh) if how.is_set else contextlib.nullcontext():
        run = jax.jit(_sharded_gradient(p, how, mesh)).lower(*placed).compile()
        got = run(*placed)
    assert_close(got, on_one_device(column), "float32", f"{name} {column} ")
    assert {shard.data.shape[0] for shard in got[1].addressable_shards} == {
        SHAPE.batch // 2
    }, "the gradient by x is not split"
    assert "all-reduce" in run.as_text(), (
        "the weights' gradients are sums over all rows"
    )
    return text_of(run.as_text(), column, sharded=True)


def exported(name: str, column: Column) -> str:
    """Return the table entry for a program that is exported for a platform.

    The last word of `name` is the platform: "tpu", "cuda" or "cpu".
    """
    platform, p = name.split()[-1], simple_problem(column)
    traced = jax.jit(_both(p.loss)).trace(p.params, p.x)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    foreign = platform != "cpu" and "custom_call @lstm_jax" in text
    module = jax.export.export(jax.jit(_both(p.loss)), platforms=[platform])(
        p.params, p.x
    )
    assert module.platforms == (platform,)
    return (
        "the CPU's call"
        if foreign or "custom_call @lstm_jax" in module.mlir_module()
        else "its own path"
    )


EXPORTED = ("program for tpu", "program for cuda", "program for cpu")
ROWS: dict[str, tuple[str, Callable[[str, Column], str]]] = (
    dict.fromkeys(ALONE, ("1", alone))
    | dict.fromkeys(SHARDED, ("2", sharded))
    | dict.fromkeys(EXPORTED, ("none", exported))
)
"""Dict from the name of each row of the table to a pair (number of devices, function).

The number of devices that the row needs is a text: "1", "2" or "none". The
function(name, column) returns the entry of the row in a column.
"""


def row(name: str, columns: tuple[Column, ...]) -> str:
    """Return a row of the table in Markdown. Only the entries of `columns` are filled
    in.
    """
    devices, cell = ROWS[name]
    cells = (cell(name, column) if column in columns else "" for column in COLUMNS)
    return f"| {name} | {devices} | {' | '.join(cells)} |"


def head() -> list[str]:
    """Return the lines of the page transformations.md above the first transformation in
    its table, with the header of the table.
    """
    names = " | ".join(f"`{backend}` ({cell})" for backend, cell in COLUMNS)
    return [
        "# JAX's transformations",
        "",
        (
            "Generated by `python tests/recurrence/transformations.py`; the tests "
            "check every entry of the table."
        ),
        "",
        (
            "- **exact**: the numbers of the reference within 1e-5, from the "
            "backend's own code, in one call."
        ),
        (
            "- **exact through reference**: the same numbers; JAX ran the "
            "operations of `reference` or `hoisted` in place of this"
        ),
        "  backend's own, which is slower.",
        (
            "- **its own path**: the program has none of this machine's compiled "
            "code. An exported program (`jax.export`) is plain JAX for"
        ),
        "  every platform, the CPU too, so that it runs where this library is not.",
        "",
        (
            "`compiled` is chosen by default on a CPU; `hoisted` where the "
            "compiled code is not built or is turned off"
        ),
        (
            "(`LSTM_JAX_COMPILED_CODE=0`, or `with "
            "lstm_jax.compiled_code(False)`). The batch is sharded by an axis "
            "called `rows`."
        ),
        "",
        f"| transformation | devices | {names} |",
        "| --- | --- | " + " | ".join("---" for _ in COLUMNS) + " |",
    ]


def main() -> None:
    """Build the compiled code, and write the page docs/reference/transformations.md."""
    native.build()
    PAGE.write_text("\n".join([*head(), *(row(name, COLUMNS) for name in ROWS)]) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")
    main()
