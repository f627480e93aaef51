"""Tests that `unroll` converts operands as Keras and JAX do, or refuses them with a one-line error that names them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, make_arrays, weigh
from tables import CELLS, EVERY_CASE, Shape, assert_close

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import DropoutMasks, InputError, unroll
from lstm_jax.cells import Cell, HiddenState
from lstm_jax.recurrence.operands import Arguments, check_arguments

pytestmark = pytest.mark.usefixtures("quick_compiles")

SHAPE = Shape(2, 4, 3, 5)  # all four differ
CASE = Case(SHAPE)
LENGTHS = np.array([3, 0], np.int32)
KEPT = np.array([[True, False, True], [True, True, False]])
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 1]])
IDS = np.array([[0, 2, 1, -1], [1, 1, 0, 2]], np.int32)

Operands = dict[str, Any]
Change = Callable[[Operands], Operands]


def usual(cell: str = "lstm") -> Operands:
    arrays = make_arrays(CASE, "float32", cell)
    return {"params": arrays.params, "x": arrays.x, "initial_state": arrays.state}


def run(operands: Operands, backend: str | None, cell: str = "lstm"):
    return unroll(CELL_TABLE[cell], backend=backend, **operands)


def of_params(name: str, change: Callable) -> Change:
    return lambda o: {"params": o["params"]._replace(**{name: change(getattr(o["params"], name))})}


def of_state(name: str, change: Callable) -> Change:
    return lambda o: {"initial_state": o["initial_state"]._replace(**{name: change(getattr(o["initial_state"], name))})}


def fixed(**operands: Any) -> Change:
    return lambda o: operands


def dropped(*masks: Any) -> Change:
    return fixed(dropout=DropoutMasks(*masks))


REFUSED: list[tuple[Change, str]] = [
    (lambda o: {"params": tuple(o["params"])}, "params"),
    (of_params("kernel", lambda a: a[:, :18]), "params.kernel"),
    (of_params("kernel", lambda a: a[:0]), "params.kernel"),
    (of_params("kernel", lambda a: a[:, :0]), "params.kernel"),
    (of_params("kernel", lambda a: a[:, :16]), "params.recurrent_kernel"),
    (of_params("kernel", lambda a: a.astype(jnp.int8)), "params.kernel"),
    (of_params("kernel", lambda a: a.astype(jnp.float8_e4m3fn)), "params.kernel"),
    (of_params("recurrent_kernel", lambda a: a.T), "params.recurrent_kernel"),
    (of_params("bias", lambda a: None), "params.bias"),
    (fixed(x=jnp.ones((4, 3))), "x"),
    (fixed(x=jnp.ones((2, 4, 4))), "x"),
    (fixed(x=jnp.ones((2, 4, 3, 1))), "x"),
    (fixed(x=jnp.ones((2, 0, 3))), "x"),
    (fixed(x=jnp.ones((0, 2, 3)), time_major=True), "x"),
    (fixed(x=np.full((2, 4, 3), "a")), "x"),
    (fixed(x=jax.random.split(jax.random.key(0), (2, 4))), "x"),
    (fixed(x=None), "x"),
    (fixed(x=[[[1.0]], [1.0]]), "x"),
    (fixed(x=np.array([[0, 3, 0, 0]] * 2)), "x"),
    (fixed(x=np.array([[0, -4, 0, 0]] * 2)), "x"),
    (lambda o: {"initial_state": o["initial_state"].h}, "initial_state"),
    (lambda o: {"initial_state": np.stack(o["initial_state"])}, "initial_state"),
    (lambda o: {"initial_state": HiddenState(o["initial_state"].h)}, "initial_state"),
    (lambda o: {"initial_state": (o["initial_state"].h,)}, "initial_state"),
    (of_state("c", lambda a: None), "initial_state.c"),
    (of_state("c", lambda a: a[:1]), "initial_state.c"),
    (lambda o: {"x": jnp.swapaxes(o["x"], 0, 1)}, "initial_state.h"),
    (fixed(dropout=(KEPT, None)), "dropout"),
    (dropped(KEPT[:, :2]), "dropout.input"),
    (dropped(np.stack([KEPT] * 3)), "dropout.input"),
    (dropped(None, KEPT), "dropout.recurrent"),
    (dropped(None, None, MASK), "dropout.zoneout"),
    (dropped(None, None, {"h": np.ones((4, 2, 5), np.float32)}), "dropout.zoneout of h"),
    (dropped(None, None, {"h": np.ones((4, 1, 5), bool)}), "dropout.zoneout of h"),
    (dropped(None, None, {"i": 0.5}), "zoneout of i"),
    (fixed(mask=MASK.T), "mask"),
    (fixed(mask=MASK, lengths=LENGTHS), "lengths"),
    (lambda o: {"x": jnp.swapaxes(o["x"], 0, 1), "mask": MASK, "time_major": True}, "mask"),
    (fixed(lengths=LENGTHS.astype(np.float32)), "lengths"),
    (fixed(lengths=3), "lengths"),
    (fixed(tokens=IDS.T), "tokens"),
    (fixed(resets=MASK > 0, segment_ids=MASK), "segment_ids"),
    (fixed(mask=MASK, segment_ids=MASK), "segment_ids"),
    (fixed(lengths=LENGTHS, segment_ids=MASK), "segment_ids"),
    (fixed(segment_ids=MASK * 1.0), "segment_ids"),
    (fixed(resets=MASK), "resets"),
    (lambda o: {"reset_state": o["initial_state"]}, "reset_state"),
    (fixed(resets=MASK > 0, reset_state=(np.zeros(3), np.zeros(5))), "reset_state.h"),
    (fixed(resets=MASK > 0, reset_state=(np.zeros(5),)), "reset_state"),
    (fixed(compute_dtype="float99"), "compute_dtype"),
    (fixed(compute_dtype="float64"), "compute_dtype"),
    (fixed(compute_dtype=jnp.int16), "backend"),
    (fixed(remat=0), "remat"),
    (fixed(remat=2.0), "remat"),
    (fixed(remat=True), "remat"),
    (fixed(remat=2, dropout=DropoutMasks(zoneout={"h": 0.5})), "remat"),
]


@pytest.mark.parametrize(("change", "subject"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(change: Change, subject: str, unchecked: None) -> None:
    operands = usual()
    for backend in (None, "reference"):
        with pytest.raises(InputError) as caught:
            run(operands | change(operands), backend)
        assert caught.value.subject in (subject, f"{subject} {backend}")
        assert "\n" not in str(caught.value)


def small_kernel(x: np.ndarray) -> Change:
    return lambda o: of_params("kernel", lambda a: a * np.float32(2.0**-40))(o) | {"x": x}


def alike(o: Operands) -> Operands:
    return {"x": o["x"][:, :1][:, [0, 0, 0, 0]]}


ALIKE: dict[str, tuple[Change, Change]] = {
    "x, NumPy's ints of 64 bits": (small_kernel(np.full((2, 4, 3), 2**40)), small_kernel(np.full((2, 4, 3), 2.0**40, np.float32))),
    "ids, some dropped": (
        fixed(x=IDS, dropout=DropoutMasks(KEPT)),
        lambda o: {"x": jax.nn.one_hot(IDS % 3, 3), "dropout": DropoutMasks(KEPT.astype(np.float32))},
    ),
    "state, int32": (of_state("c", lambda a: (2 * a).astype(int)), of_state("c", lambda a: jnp.trunc(2 * a))),
    "zoneout, ints": (dropped(None, None, {"h": np.ones((4, 2, 5), int)}), dropped(None, None, {"h": np.ones((4, 2, 5), bool)})),
    "lengths, beyond 32 bits": (fixed(lengths=np.array([2**32 + 1, -(2**32) + 3])), fixed(mask=np.array([[True] * 4, [False] * 4]))),
    "tokens": (lambda o: alike(o) | {"tokens": np.full((2, 4), 7)}, alike),
    "tokens, beyond 32 bits": (fixed(tokens=np.array([[1, 2**32 + 1, 2**33 + 1, 2**34 + 1]] * 2)), fixed()),
    "tokens, uint32": (fixed(tokens=np.array([[1, 2, 2**32 - 1, 2**31]] * 2, np.uint32)), fixed()),
}


@pytest.mark.slow(keep=8)
@pytest.mark.parametrize("name", ALIKE)
def test_what_can_be_converted_equals_the_reference(name: str, eager: None) -> None:
    change, clean = ALIKE[name]
    operands = usual()
    want = run(operands | clean(operands), "reference")
    turn = list(ALIKE).index(name) % len(EVERY_CASE)  # operands are converted before a backend runs: the default and one other suffice
    for backend in {"reference"} if "zoneout" in name else {EVERY_CASE[0], EVERY_CASE[turn]}:
        assert_close(run(operands | change(operands), backend), want, "float32", f"{backend} ")


@pytest.mark.parametrize("backend", EVERY_CASE)
def test_ids_of_64_bits_are_not_cut(x64: None, backend: str) -> None:
    ids = jnp.asarray([[0, 1, 2, 2**32 + 1]] * 2)
    outputs, _ = jax.jit(lambda x: run(usual() | {"x": x}, backend))(ids)
    assert np.isnan(outputs[:, 3]).all()  # an id that the kernel has no row for, not id 1
    assert np.isfinite(outputs[:, :3]).all()
    with pytest.raises(InputError, match=r"^x: id"):
        run(usual() | {"x": ids}, backend)
    run(usual() | {"x": ids, "lengths": np.array([3, 3])}, backend)  # at padding any id will do


def test_more_steps_than_an_int8_counts() -> None:
    given = {"params": usual()["params"], "x": jnp.ones((2, 130, 3))}
    got, want = (run(given | {"lengths": np.array(counts, np.int8)}, "hoisted") for counts in ([127, -128], [127, 0]))
    assert_close(got, want, 0.0)


@pytest.mark.parametrize("cell", CELLS)
def test_parameters_of_every_cell_are_checked(cell: str) -> None:
    """A parameter of a wrong shape or dtype raises an `InputError` that names the parameter.

    The test removes the last row or entry of each parameter except the kernel, whose remaining rows would fit an x with fewer features. It
    also gives each parameter a dtype that the others do not have. If this is the kernel, the error may name another parameter. An initial
    state with one array too many is refused, too.
    """
    operands = usual(cell)
    for name, array in operands["params"]._asdict().items():
        for wrong in (array[:-1], array.astype(jnp.float16)):
            if name == "kernel" and wrong.dtype == jnp.float32:
                continue  # a feature less is x's misfit
            with pytest.raises(InputError, match=rf"^params\.{name if name != 'kernel' else ''}"):
                run(operands | {"params": operands["params"]._replace(**{name: wrong})}, None, cell)
    like = operands["initial_state"]
    with pytest.raises(InputError, match=rf"^initial_state: list of {len(like) + 1}; give {type(like).__name__}\("):
        run(operands | {"initial_state": [*like, like.h]}, None, cell)
    if not CELL_TABLE[cell].has_recurrent_kernel:
        with pytest.raises(InputError, match=r"^dropout\.recurrent: "):
            run(operands | {"dropout": DropoutMasks(None, jnp.ones((2, 5)))}, None, cell)


class Params(NamedTuple):
    kernel: jax.Array
    decay: jax.Array


class State(NamedTuple):
    h: jax.Array
    count: jax.Array


DIAGONAL = Cell(
    "diagonal",
    1,
    Params,
    lambda key, features, units, dtype: Params(jax.random.normal(key, (features, units), dtype), jnp.full((units,), 0.5, dtype)),
    jnp.zeros,
    lambda batch, units, dtype: State(jnp.zeros((batch, units), dtype), jnp.zeros((batch, 1), jnp.int32)),
    lambda params, state, z, mask, compute_dtype: State(jnp.broadcast_to(params.decay, z.shape) * state.h + z, state.count + 1),
    lambda params, x, mask, compute_dtype: x @ params.kernel,
)
"""A user's cell with the step h' = decay h + z, whose state also counts the steps."""


def test_a_cell_of_one_s_own_says_what_fits() -> None:
    params, x = DIAGONAL.init(jax.random.key(0), 3, 5, jnp.float32), usual()["x"]
    state = check_arguments(DIAGONAL, Arguments(params, x, [jnp.ones((2, 5), jnp.bfloat16), np.ones((2, 1), bool)]), False).state
    assert (type(state).__name__, state.h.dtype, state.count.dtype) == ("State", jnp.float32, jnp.int32)
    with pytest.raises(InputError, match=r"^initial_state.count: \(2, 5\)"):
        unroll(DIAGONAL, params, x, [jnp.ones((2, 5)), jnp.ones((2, 5))])
    with pytest.raises(InputError, match=r"^params.decay: \(4,\)"):
        unroll(DIAGONAL, params._replace(decay=params.decay[:4]), x)


def test_a_name_is_no_cell(unchecked: None) -> None:
    with pytest.raises(InputError, match=r"^cell: lstm; give a Cell"):
        unroll("lstm", usual()["params"], usual()["x"])


@pytest.mark.parametrize(("backend", "promotion"), [*((name, "strict") for name in EVERY_CASE), (None, "standard")])
def test_the_same_within_transformations(backend: str | None, promotion: str) -> None:
    """Operands are converted also within `jit`, `vmap` and `grad`, and gradients have the dtype of the given operand."""
    operands = usual()

    def gradients(backend, *args):
        def loss(x, state, mask, lengths):
            return weigh(run(operands | {"x": x, "initial_state": state, "lengths": lengths, "dropout": DropoutMasks(mask)}, backend))

        return jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(*args)

    xs, masks = jnp.stack([operands["x"], -operands["x"]]), np.stack([KEPT, ~KEPT])
    states = [jnp.stack([a, a]).astype(jnp.float16) for a in operands["initial_state"]]
    with jax.numpy_dtype_promotion(promotion):
        d_x, d_state = gradients(backend, xs, states, masks, np.array([[9, 2], [-1, 3]], np.int8))
    clean = [a.astype(jnp.float32) for a in states], masks.astype(np.float32), np.array([[4, 2], [0, 3]])
    want = gradients("reference", xs, *clean)
    assert d_state[0].dtype == jnp.float16
    assert_close(d_x, want[0], "float32")
    assert_close([a.astype(jnp.float32) for a in d_state], want[1], 1e-3)
