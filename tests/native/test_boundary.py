"""Tests that call the compiled C++ functions directly by `jax.ffi`, without the checks
of the Python code.

The tests cover the errors for wrong operands, results and attributes, and calls in
which an axis has the size 0.
"""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import SHAPES, Call, linear, mask, recurrence, refusal, refusals, table
from tables import BACKENDS

from lstm_jax import native
from lstm_jax.recurrence.compiled_cells import COMPILED_CELLS

pytestmark = [
    pytest.mark.skipif(
        "compiled" not in BACKENDS, reason="no C++ compiler to build the backend with"
    ),
]

LAST_CELL = len(COMPILED_CELLS) - 1
CALLS = {
    "forward": recurrence(False, kinds=(4, 1), tokens=True),
    "forward, ids": recurrence(False, ids=True, kinds=(0, 4), masked=False, keep=False),
    "backward": recurrence(True, kinds=(1, 4), tokens=True),
    "backward, ids": recurrence(True, ids=True),
    "forward, batch first": recurrence(False, sizes=(3, 6, 5, 4)).batch_first(),
    "backward, batch first": recurrence(True, sizes=(3, 6, 5, 4)).batch_first(),
    **{
        f"forward, {cell}": recurrence(
            False, kinds=(SHAPES[cell].gates, int(SHAPES[cell].recurrent)), cell=cell
        )
        for cell in list(SHAPES)[1:]
    },
    **{
        f"backward, {cell}": recurrence(
            True, kinds=(1, SHAPES[cell].gates * SHAPES[cell].recurrent), cell=cell
        )
        for cell in list(SHAPES)[1:]
    },
    **(
        {}
        if native.why_not_products("bfloat16")
        else {
            "forward, bfloat16": recurrence(False, products=1),
            "backward, bfloat16": recurrence(True, products=1),
        }
    ),
    **(
        {}
        if native.why_not_products("int8")
        else {"forward, int8": recurrence(False, keep=False, products=2)}
    ),
    "linear forward": linear(False),
    "linear backward": linear(True),
    "linear backward, no resets": linear(True, resets=False),
    "linear forward, complex": linear(False, is_complex=True),
    "linear backward, complex": linear(True, is_complex=True),
    "linear forward, constant, batch first": linear(
        False, constant=True, batch_first=True
    ),
    "linear backward, batch first": linear(True, batch_first=True),
    "linear backward, complex, constant": linear(True, is_complex=True, constant=True),
    "catch up": table(False),
    "catch up all": table(False, ids=None),
    "rows": table(True),
    "mask": mask(),
}
# if one of them does not fit, the error names a later operand
SETS_THE_SIZES = {"a", "x", "ids", "kernel", "table", "m", "scales"}
ANY_SHAPE = {"mask"}


def _others(like, name: str, alone: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield pairs (dtype, shape) that a call must refuse if it gets them in place of
    the dtype and the shape of the array `like`.

    If `alone` is true, no other array of the call depends on the sizes of the axes of
    `like`. An array with other sizes is then valid, so that no such shape is yielded.
    """
    shape, dtype = tuple(like.shape), np.dtype(like.dtype).name
    yield (
        {"float32": "bfloat16", "int32": "float32", "bool": "int8", "uint32": "int32"}[
            dtype
        ],
        shape,
    )
    if name in ANY_SHAPE:
        return
    yield dtype, (*shape, 1)
    if shape and not alone:
        yield (
            dtype,
            shape[::-1] if shape[::-1] != shape else (*shape[:-1], shape[-1] + 1),
        )


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize("kind", CALLS)
def test_misfits_of_every_array(kind: str) -> None:
    """A call is refused if one operand or result has a wrong dtype, rank or size of an
    axis.

    The error gives the name of the array, its dtype and shape, and the dtype and shape
    that fit. The arrays in `SETS_THE_SIZES` determine the sizes of other arrays. If one
    of them is wrong, the error may therefore name another array.
    """
    call = CALLS[kind]
    call.run()
    arrays, tried = call.operands | call.results, []
    for name, like in [("ids", arrays["ids"])] if "ids" in kind else arrays.items():
        alone = name == "scales" or (name == "ids" and kind == "catch up")
        for dtype, shape in _others(like, name, alone):
            other = (
                np.zeros(shape, jnp.dtype(dtype))
                if name in call.operands
                else jax.ShapeDtypeStruct(shape, dtype)
            )
            had = (
                f"{name}: {dtype}[{', '.join(map(str, shape))}]; give "
                f"{np.dtype(like.dtype).name}"
            )
            tried.append((call.but(name, other), "" if name in SETS_THE_SIZES else had))
    for said, (_, had) in zip(
        refusals([other for other, _ in tried]), tried, strict=True
    ):
        assert re.search(
            rf"{call.function}: [a-zA-Z ]+: \w+\[[\d, ]*\]; give \w+", said
        ), said
        assert f"{call.function}: {had}" in said
    assert len(tried) >= (
        2 if kind == "mask" or "ids" in kind else 8 if "linear" in kind else 13
    )


@pytest.mark.parametrize("kind", CALLS)
def test_numbers_of_arrays(kind: str) -> None:
    call = CALLS[kind]
    named = "operands" in call.fixed(1)
    others = []
    for part, what in ((call.operands, "operands"), (call.results, "results")):
        given = list(part.items())
        more = ("more", given[0][1])
        # arrays with names may be left out, but not the kernel or the first result
        first = "kernel" if what == "operands" else given[0][0]
        fewer = [item for item in given if item[0] != first] if named else given[:-1]
        for some in (fewer, [*given, more], given[:1]):
            if len(some) in (0, len(given)):  # XLA removes a call without results
                continue
            if named and what == "results" and len(some) == 1:  # may be enough
                continue
            other = call._replace(**{what: dict(some)})
            if named:
                others.append((other, f"{what}: {len(some)}; give "))
                continue
            # 7 without ids, 8 with them
            if kind.startswith("catch up") and what == "operands":
                if len(some) not in (7, 8):
                    names = ", ".join(CALLS["catch up"].operands)
                    others.append((other, f"operands: {len(some)}; give 8: {names}"))
                continue
            wanted = f"{what}: {len(some)}; give {len(given)}: {', '.join(part)}"
            others.append((other, wanted))
    for said, (_, had) in zip(
        refusals([other for other, _ in others]), others, strict=True
    ):
        assert f"{call.function}: {had}" in said


@pytest.mark.parametrize("backward", [False, True])
def test_names_of_arrays(backward: bool) -> None:
    """Arrays are known by their names, in any order after the first result. An unknown
    name and another number of names than arrays are refused.
    """
    call = recurrence(backward, tokens=True, kinds=(4, 1))
    turned = call._replace(operands=dict(reversed(call.operands.items())))
    for got, want in zip(turned.run(), call.run(), strict=True):
        np.testing.assert_array_equal(got, want)
    renamed = {
        "W" if name == "kernel" else name: array
        for name, array in call.operands.items()
    }
    said = refusal(call._replace(operands=renamed).run)
    assert "kernel: no array; give one" in said

    def run_with(names: str):
        results = list(call.results.values())
        function = jax.ffi.ffi_call(call.function, results)
        fixed = call.fixed(1) | {"operands": names}
        return function(*call.operands.values(), **fixed)

    for names in ("", "x", ",".join([*call.operands, "more"]), "x," * 40):
        said = refusal(lambda names=names: run_with(names))
        assert re.search("(operands|names of arrays|no array)", said), said


@pytest.mark.parametrize(
    ("kind", "name", "value", "remedy"),
    [
        ("forward", "cell", -1, f"give 0 to {LAST_CELL}"),
        ("backward", "cell", LAST_CELL + 1, f"give 0 to {LAST_CELL}"),
        ("backward", "cell", 2**40, f"give 0 to {LAST_CELL}"),
        ("forward", "products", 3, "give 0, 1"),
        (
            "forward, lstm_full_gate_recurrence",
            "products",
            2,
            "give 0 or 1 for a cell with several parts of h",
        ),
        ("backward", "products", -1, "give 0, 1"),
        ("forward", "threads", 0, "give 1 or more"),
        ("backward", "threads", -3, "give 1 or more"),
        ("rows", "threads", -(2**62), "give 1 or more"),
        ("rows", "b1", 1.5, "give 0 to 1"),
        ("rows", "b2", float("nan"), "give 0 to 1"),
        ("catch up", "b1", -0.1, "give 0 to 1"),
        ("mask", "keep", np.float32(-0.5), "give 0 to 1"),
        ("mask", "threads", 0, "give 1 or more"),
        ("linear backward", "threads", 0, "give 1 or more"),
    ],
)
def test_attributes_out_of_range(kind: str, name: str, value, remedy: str) -> None:
    call = CALLS[kind]
    assert re.search(
        rf"{call.function}: {name}: [^;]+; {remedy}",
        refusal(
            call._replace(attributes={"threads": 1} | call.attributes)
            .but(name, value)
            .run
        ),
    )


def test_attributes_that_a_call_does_not_have() -> None:
    call = CALLS["mask"]
    given = {"threads": 1} | call.attributes
    assert "attributes: 4; give 3" in refusal(
        call._replace(attributes=given | {"more": 1}).run
    )
    assert "attributes: 2; give 3" in refusal(
        call._replace(attributes={"threads": 1, "keep": given["keep"]}).run
    )
    assert "keep: no such attribute" in refusal(
        call._replace(attributes=given | {"keep": 1}).run
    )
    assert "keep: no such attribute" in refusal(
        call._replace(attributes={"threads": 1, "scale": given["scale"], "more": 1}).run
    )


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_few_rows_have_one_order(backward: bool, ids: bool) -> None:
    assert "batch_first: 1; give 0 for 3 rows or fewer" in refusal(
        recurrence(backward, ids=ids).batch_first().run
    )


@pytest.mark.parametrize(("products", "dtype"), [(1, "bfloat16"), (2, "int8")])
@pytest.mark.parametrize("backward", [False, True])
def test_products_that_cannot_be(
    backward: bool, products: int, dtype: str, x64: None
) -> None:
    """Products in bfloat16 and int8 are refused in three cases.

    They are refused if the parameters are float64, or if the library lacks such
    products. Products in int8 are also refused in a call for a gradient.
    """
    if native.why_not_products(dtype):
        said = refusal(recurrence(backward, products=products).run)
        assert (
            f"products: {products}; give 0, or build the library for a "
            "processor with AVX512-BF16 and AVX512-VNNI"
        ) in said
        return
    said = refusal(recurrence(backward, "float64", keep=False, products=products).run)
    assert f"products: {products}; give 0 with parameters in float64" in said
    if dtype == "int8":
        assert "products: 2; give 0 or 1 for a gradient" in refusal(
            recurrence(backward, keep=True, products=2).run
        )


@pytest.mark.parametrize("rows", [2, 5])
def test_int8_without_features(rows: int) -> None:
    if native.why_not_products("int8"):
        pytest.skip("no products in int8")
    call = recurrence(
        False, sizes=(3, rows, 0, 4), masked=False, resets=False, keep=False, products=2
    )
    whole = recurrence(
        False, sizes=(3, rows, 0, 4), masked=False, resets=False, keep=False
    )
    for got, want in zip(call.run(), whole.run(), strict=True):
        np.testing.assert_allclose(got, want, atol=0.02)


def test_a_kernel_that_is_no_multiple_of_four() -> None:
    said = refusal(recurrence(False).but("kernel", np.zeros((5, 15), np.float32)).run)
    assert "lstm_jax_forward: kernel: float32[5, 15]; give float32[5, 4H]" in said


@pytest.mark.parametrize("rows", [False, True])
def test_steps_that_cannot_be(rows: bool) -> None:
    """A call of the row-sparse Adam is refused if its step number is negative, or too
    large for the number of its scales.

    The call gets one scale for each step. It is also refused if the number of steps
    that a row of the table has done is negative, or larger than the step number.
    """
    last = 3 if rows else 4
    for at in (-1, last + 1, 2**31 - 1, -(2**31)):
        assert f": {at}; give 0 to {last}" in refusal(table(rows, at=at).run)
    for done in (-1, 3, 2**31 - 1, -(2**31)):
        call = table(rows)
        assert f"steps done by row 1: {done}; give 0 to 2" in refusal(
            call.but("steps done", _with(call, done)).run
        )
    fits = table(rows, at=last)
    fits.but("steps done", _with(fits, last)).run()


def _with(call: Call, done: int) -> np.ndarray:
    """Return the operand "steps done" of a call, with the value `done` for row 1."""
    return np.where(np.arange(6) == 1, done, call.operands["steps done"]).astype(
        np.int32
    )


@pytest.mark.parametrize("count", [2, 40])
def test_ids_out_of_range_name_no_row(count: int) -> None:
    """A step of the row-sparse Adam counts negative ids from the end of the table, and
    updates no row for ids out of range, as JAX does.
    """
    call = table(True, ids=count)
    ids = np.resize(np.array([-(2**31), 2**31 - 1, 6, -7, -1, 2], np.int32), count)
    done = call.but("ids", ids).run()[3]
    np.testing.assert_array_equal(
        done, [3 * (word in (2, 5) and count > 4) for word in range(6)]
    )


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize(
    "sizes", [(0, 2, 5, 4), (3, 0, 5, 4), (3, 2, 0, 4), (3, 2, 5, 0), (0, 0, 0, 0)]
)
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_to_compute(
    sizes: tuple[int, int, int, int], ids: bool, dtype: str
) -> None:
    """Calls without steps, rows, features or units write all their results.

    Without steps, the final state is the initial state. Without steps, rows or units,
    the gradient with respect to the initial state is
    that with respect to the final state, and all other gradients are zero. Without
    features, all ids are out of range: the gates are NaN.
    """
    with jax.enable_x64(dtype == "float64"):
        steps, batch, features, units = sizes
        for cell in SHAPES:
            call = recurrence(
                False, dtype, sizes, ids, masked=False, tokens=not ids, cell=cell
            )
            final = call.run()
            assert steps or np.array_equal(final[0], call.operands["h"])
            if cell == "lstm" and features == 0 and ids:
                assert np.isnan(final[-1]).all()
            back = recurrence(
                True,
                dtype,
                sizes,
                ids,
                kinds=(0 if ids else 1, int(SHAPES[cell].recurrent)),
                cell=cell,
            )
            given = [
                array
                for name, array in back.operands.items()
                if name.startswith("d of final")
            ]
            found = back.run()
            if 0 in (steps, batch, units):
                for gradient, want in zip(
                    found,
                    [*given, *(np.zeros_like(array) for array in found[len(given) :])],
                    strict=True,
                ):
                    np.testing.assert_array_equal(gradient, want)
            assert all(np.isfinite(gradient).all() for gradient in found)


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_empty_masks(shape: tuple[int, ...]) -> None:
    assert mask(shape).run()[0].shape == shape


@pytest.mark.parametrize("rows", [False, True])
def test_empty_tables(rows: bool) -> None:
    for sizes in ({"words": 0}, {"columns": 0}, {"ids": 0}):
        call = table(rows, **sizes)
        for got, like in zip(call.run(), call.results.values(), strict=True):
            assert got.shape == like.shape
    if not rows:
        np.testing.assert_array_equal(
            table(False, at=0, scales=0).run()[0], np.ones((6, 5))
        )


def test_masks_of_any_byte() -> None:
    """A bool in the mask counts as true if another program has stored it as the byte 2."""
    call = recurrence(False)
    odd = (call.operands["valid"].astype(np.uint8) * 2).view(bool)
    for got, want in zip(call.but("valid", odd).run(), call.run(), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("backward", [False, True])
def test_memory_that_is_not_there(backward: bool) -> None:
    """If an allocation fails, in the calling thread or in another one, the call raises
    an error. The next call works.
    """
    # in a new process, because memory that earlier tests have freed would be enough for
    # the call; for the same reason, each block of 1 MiB or more goes back to the
    # operating system once it is freed
    settings = {"LSTM_JAX_KEEP_MEMORY": "0", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import test_boundary; test_boundary.call_without_memory({backward})",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            **settings,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
    )
    assert run.returncode == 0, run.stderr


def call_without_memory(backward: bool) -> None:
    """Check that a call raises an error if the free memory is only enough for its
    results, and that a later call works.

    The forward call raises the error with 8 to 18 MiB, and the backward call, whose
    results take 19 MiB, with 20 to 24 MiB, for vectors of
    16, 32 and 64 bytes: the call pads its single unit to a whole vector.
    """
    call = recurrence(backward, sizes=(1, 2, 1_200_000, 1), keep=False, masked=False)
    results = {name: like for name, like in call.results.items() if name != "d of x"}
    call = call._replace(results=results)
    fixed = call.fixed(2)
    function = jax.jit(
        lambda *operands: jax.ffi.ffi_call(call.function, list(results.values()))(
            *operands, **fixed
        )
    )
    operands = jax.block_until_ready(jax.device_put(list(call.operands.values())))
    run = function.lower(*operands).compile()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(
            resource.RLIMIT_AS, (now + ((22 if backward else 12) << 20), limits[1])
        )
        with pytest.raises(
            (ValueError, jax.errors.JaxRuntimeError),
            match=r"RESOURCE_EXHAUSTED.*lstm_jax_\w+: not enough memory",
        ):
            jax.block_until_ready(run(*operands))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    recurrence(backward, sizes=(3, 7, 5, 4)).run(threads=3)
