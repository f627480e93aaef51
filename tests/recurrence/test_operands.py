"""Tests that every backend converts operands of `unroll` as Keras and JAX do, or refuses them with a one-line error that names them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, make_arrays, weigh
from flax import nnx
from tables import BACKENDS, CELLS, EVERY_CASE, Shape, assert_close

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import GRU, LSTM, DropoutMasks, InputError, LSTMState, unroll
from lstm_jax.cells import Cell, HiddenState
from lstm_jax.recurrence.operands import check_arguments

pytestmark = pytest.mark.usefixtures("quick_compiles")

SHAPE = Shape(2, 4, 3, 5)  # all four differ
CASE = Case(SHAPE)
LENGTHS = np.array([3, 0], np.int32)
KEPT = np.array([[True, False, True], [True, True, False]])
STATE_KEPT = np.array([[True, False, True, True, False], [False, True, True, True, True]])
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


REFUSED: dict[str, tuple[Change, str]] = {
    "params, another class": (lambda o: {"params": tuple(o["params"])}, "params: tuple; the cell lstm has LSTMParams"),
    "kernel, rank": (of_params("kernel", lambda a: a[0]), "params.kernel: (20,); give (E, 4 H)"),
    "kernel, gates": (of_params("kernel", lambda a: a[:, :18]), "params.kernel: (3, 18); give (E, 4 H)"),
    "kernel, no features": (of_params("kernel", lambda a: a[:0]), "params.kernel: (0, 20); give (E, 4 H)"),
    "kernel, other units": (of_params("kernel", lambda a: a[:, :16]), "params.recurrent_kernel: (5, 20); give shape (4, 16)"),
    "kernel, int": (of_params("kernel", lambda a: a.astype(jnp.int8)), "params.kernel: int8; give one of float16"),
    "kernel, complex": (of_params("kernel", lambda a: a.astype(jnp.complex64)), "params.kernel: complex64; give one of"),
    "kernel, float8": (of_params("kernel", lambda a: a.astype(jnp.float8_e4m3fn)), "params.kernel: float8_e4m3fn; give one of"),
    "recurrent kernel, PyTorch's": (of_params("recurrent_kernel", lambda a: a.T), "params.recurrent_kernel: (20, 5); give shape (5, 20)"),
    "recurrent kernel, rank": (of_params("recurrent_kernel", lambda a: a[None]), "params.recurrent_kernel: (1, 5, 20); give shape (5, 20)"),
    "recurrent kernel, dtype": (
        of_params("recurrent_kernel", lambda a: a.astype(jnp.bfloat16)),
        "params.recurrent_kernel: bfloat16; give fl",
    ),
    "bias, rank": (of_params("bias", lambda a: a[None]), "params.bias: (1, 20); give shape (20,)"),
    "bias, extent": (of_params("bias", lambda a: a[:5]), "params.bias: (5,); give shape (20,)"),
    "bias, dtype": (of_params("bias", lambda a: a.astype(jnp.float16)), "params.bias: float16; give float32, as the kernel has"),
    "bias, int": (of_params("bias", lambda a: a.astype(jnp.int32)), "params.bias: int32; give float32"),
    "bias, none": (of_params("bias", lambda a: None), "params.bias: None; give one of"),
    "x, rank": (fixed(x=jnp.ones((4, 3))), "x: (4, 3); give (B, T, E)"),
    "x, features": (fixed(x=jnp.ones((2, 4, 4))), "x: (2, 4, 4); the kernel reads 3 features"),
    "x, no features": (fixed(x=jnp.ones((2, 4, 0))), "x: (2, 4, 0); the kernel reads 3 features"),
    "x, no steps": (fixed(x=jnp.ones((2, 0, 3))), "x: (2, 0, 3); give 1 or more time steps"),
    "x, complex": (fixed(x=jnp.ones((2, 4, 3), jnp.complex64)), "x: complex64; give floats"),
    "x, text": (fixed(x=np.full((2, 4, 3), "a")), "x: <U1; give floats"),
    "x, keys": (fixed(x=jax.random.split(jax.random.key(0), (2, 4))), "x: key<fry>; give floats"),
    "x, none": (fixed(x=None), "x: None; give floats"),
    "x, ragged": (fixed(x=[[[1.0]], [1.0]]), "x: list; give floats"),
    "ids, bools": (fixed(x=jnp.ones((2, 4), bool)), "x: bool; give floats"),
    "state, an array": (lambda o: {"initial_state": o["initial_state"].h}, "initial_state: ArrayImpl; give LSTMState(h, c), or a tuple"),
    "state, an array of both": (lambda o: {"initial_state": np.stack(o["initial_state"])}, "initial_state: ndarray; give LSTMState(h, c)"),
    "state, of another cell": (
        lambda o: {"initial_state": HiddenState(o["initial_state"].h)},
        "initial_state: HiddenState; give LSTMState",
    ),
    "state, one part": (lambda o: {"initial_state": (o["initial_state"].h,)}, "initial_state: tuple of 1; give LSTMState(h, c)"),
    "state, part left out": (of_state("c", lambda a: None), "initial_state.c: None; give float32 (2, 5)"),
    "state, rank": (of_state("h", lambda a: a[0]), "initial_state.h: (5,); give shape (2, 5)"),
    "state, batch": (of_state("c", lambda a: a[:1]), "initial_state.c: (1, 5); give shape (2, 5)"),
    "state, units": (of_state("h", lambda a: a[:, :4]), "initial_state.h: (2, 4); give shape (2, 5)"),
    "state, turned": (of_state("h", lambda a: a.T), "initial_state.h: (5, 2); give shape (2, 5)"),
    "state, complex": (of_state("h", lambda a: a.astype(jnp.complex64)), "initial_state.h: complex64; give float32 (2, 5)"),
    "dropout, another class": (fixed(dropout=(KEPT, None)), "dropout: tuple; give DropoutMasks(input, recurrent, zoneout)"),
    "input mask, extent": (dropped(KEPT[:, :2]), "dropout.input: (2, 2); give shape (2, 3) or (4, 2, 3)"),
    "input mask, rank": (dropped(KEPT[0]), "dropout.input: (3,); give shape"),
    "input mask, gates": (dropped(np.stack([KEPT] * 3)), "dropout.input: (3, 2, 3); give shape"),
    "input mask, complex": (dropped(KEPT.astype(np.complex64)), "dropout.input: complex64; give shape"),
    "recurrent mask, extent": (dropped(None, KEPT), "dropout.recurrent: (2, 3); give shape (2, 5) or (4, 2, 5)"),
    "mask, turned": (fixed(mask=MASK.T), "mask: (4, 2); give (B, T), or (T, B) if time_major"),
    "mask, rank": (fixed(mask=MASK[0]), "mask: (4,); give (B, T)"),
    "mask, complex": (fixed(mask=MASK.astype(np.complex64)), "mask: complex64; give bools"),
    "mask, of text": (fixed(mask=np.full((2, 4), "a")), "mask: <U1; give bools"),
    "mask and lengths": (fixed(mask=MASK, lengths=LENGTHS), "lengths: given with mask; give one of the two"),
    "mask, batch first with time_major": (
        lambda o: {"x": jnp.swapaxes(o["x"], 0, 1), "mask": MASK, "time_major": True},
        "mask: (2, 4); give (B, T), or (T, B) if time_major",
    ),
    "state with x, time first by mistake": (lambda o: {"x": jnp.swapaxes(o["x"], 0, 1)}, "initial_state.h: (2, 5); give shape (4, 5)"),
    "lengths, floats": (fixed(lengths=LENGTHS.astype(np.float32)), "lengths: float32; give ints"),
    "lengths, bools": (fixed(lengths=LENGTHS > 0), "lengths: bool; give ints"),
    "lengths, extent": (fixed(lengths=LENGTHS[:1]), "lengths: (1,); give shape (2,)"),
    "lengths, one for all": (fixed(lengths=3), "lengths: (); give shape (2,)"),
    "tokens, floats": (fixed(tokens=IDS.astype(np.float32)), "tokens: float32; give ints"),
    "tokens, turned": (fixed(tokens=IDS.T), "tokens: (4, 2); give (B, T), or (T, B) if time_major"),
    "compute dtype, no dtype": (fixed(compute_dtype="float99"), "compute_dtype: float99; give one of float16"),
    "compute dtype, float64 without x64": (fixed(compute_dtype="float64"), "compute_dtype: float64; switch jax_enable_x64 on"),
    "compute dtype, ints": (fixed(compute_dtype=jnp.int16), "backend"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name(name: str) -> None:
    change, message = REFUSED[name]
    operands = usual()
    for backend in (None, *EVERY_CASE):
        with pytest.raises(InputError) as caught:
            run(operands | change(operands), backend)
        assert str(caught.value).startswith(message), backend


def converted(dtype) -> Change:
    return lambda o: {"initial_state": LSTMState(*((a * 2).astype(dtype) for a in o["initial_state"]))}


def rounded(dtype) -> Change:
    return lambda o: {"initial_state": LSTMState(*((a * 2).astype(dtype).astype(jnp.float32) for a in o["initial_state"]))}


def small_kernel(x: np.ndarray) -> Change:
    return lambda o: of_params("kernel", lambda a: a * np.float32(2.0**-40))(o) | {"x": x}


ALIKE: dict[str, tuple[Change, Change]] = {
    "x, NumPy's float64": (lambda o: {"x": np.asarray(o["x"], np.float64)}, fixed()),
    "x, bfloat16": (lambda o: {"x": o["x"].astype(jnp.bfloat16)}, lambda o: {"x": o["x"].astype(jnp.bfloat16).astype(jnp.float32)}),
    "x, a list": (lambda o: {"x": o["x"].tolist()}, fixed()),
    "x, ints": (lambda o: {"x": (o["x"] * 3).astype(jnp.int8)}, lambda o: {"x": (o["x"] * 3).astype(jnp.int8).astype(jnp.float32)}),
    "x, NumPy's ints of 64 bits": (small_kernel(np.full((2, 4, 3), 2**40)), small_kernel(np.full((2, 4, 3), 2.0**40, np.float32))),
    "x, bools": (lambda o: {"x": o["x"] > 0}, lambda o: {"x": (o["x"] > 0).astype(jnp.float32)}),
    "ids, unsigned": (fixed(x=(IDS % 3).astype(np.uint8)), fixed(x=IDS % 3)),
    "ids, of 64 bits": (fixed(x=IDS.astype(np.int64)), fixed(x=IDS)),
    "ids, a list": (fixed(x=IDS.tolist()), fixed(x=IDS)),
    "ids, some dropped": (
        fixed(x=IDS, dropout=DropoutMasks(KEPT)),
        lambda o: {"x": jax.nn.one_hot(IDS % 3, 3), "dropout": DropoutMasks(KEPT.astype(np.float32))},
    ),
    "params, NumPy's": (lambda o: {"params": jax.tree.map(np.asarray, o["params"])}, fixed()),
    "state, a tuple": (lambda o: {"initial_state": tuple(o["initial_state"])}, fixed()),
    "state, a list": (lambda o: {"initial_state": list(o["initial_state"])}, fixed()),
    "state, NumPy's float64": (lambda o: {"initial_state": LSTMState(*(np.asarray(a, np.float64) for a in o["initial_state"]))}, fixed()),
    "state, bfloat16": (converted(jnp.bfloat16), rounded(jnp.bfloat16)),
    "state, int32": (converted(jnp.int32), rounded(jnp.int32)),
    "state, bools": (converted(bool), rounded(bool)),
    "state, one part of float16": (
        of_state("c", lambda a: a.astype(jnp.float16)),
        of_state("c", lambda a: a.astype(jnp.float16).astype("f4")),
    ),
    "dropout, bools": (dropped(KEPT, STATE_KEPT), dropped(KEPT.astype(np.float32), STATE_KEPT.astype(np.float32))),
    "dropout, ints": (
        dropped(np.stack([KEPT * 2] * 4), np.stack([STATE_KEPT * 3] * 4)),
        dropped(np.stack([KEPT * 2.0] * 4).astype(np.float32), np.stack([STATE_KEPT * 3.0] * 4).astype(np.float32)),
    ),
    "dropout, float16": (dropped(KEPT.astype(np.float16)), dropped(KEPT.astype(np.float32))),
    "mask, ints": (fixed(mask=MASK * 2), fixed(mask=MASK > 0)),
    "mask, floats": (fixed(mask=MASK * 0.5), fixed(mask=MASK > 0)),
    "mask, a list": (fixed(mask=MASK.tolist()), fixed(mask=MASK > 0)),
    "lengths, int8": (fixed(lengths=LENGTHS.astype(np.int8)), fixed(lengths=LENGTHS)),
    "lengths, uint64": (fixed(lengths=LENGTHS.astype(np.uint64)), fixed(lengths=LENGTHS)),
    "lengths, a list": (fixed(lengths=[3, 0]), fixed(lengths=LENGTHS)),
    "lengths, below 0 and above T": (fixed(lengths=np.array([-1, 99])), fixed(mask=np.array([[False] * 4, [True] * 4]))),
    "lengths, beyond 32 bits": (fixed(lengths=np.array([2**32 + 1, -(2**32) + 3])), fixed(mask=np.array([[True] * 4, [False] * 4]))),
    "tokens": (
        lambda o: {"x": o["x"][:, :1][:, [0, 0, 0, 0]], "tokens": np.full((2, 4), 7)},
        lambda o: {"x": o["x"][:, :1][:, [0, 0, 0, 0]]},
    ),
    "tokens, beyond 32 bits": (fixed(tokens=np.array([[1, 2**32 + 1, 2**33 + 1, 2**34 + 1]] * 2)), fixed()),
    "tokens, uint32": (fixed(tokens=np.array([[1, 2, 2**32 - 1, 2**31]] * 2, np.uint32)), fixed()),
}


@pytest.mark.slow(keep=11)
@pytest.mark.parametrize("name", ALIKE)
def test_what_can_be_converted_equals_the_reference(name: str, eager: None) -> None:
    change, clean = ALIKE[name]
    operands = usual()
    want = run(operands | clean(operands), "reference")
    turn = list(ALIKE).index(name) % len(EVERY_CASE)  # operands are converted before a backend runs: the default and one other suffice
    for backend in {EVERY_CASE[0], EVERY_CASE[turn]}:
        assert_close(run(operands | change(operands), backend), want, "float32", f"{backend} ")


@pytest.mark.parametrize("backend", EVERY_CASE)
def test_float64_state_of_a_float32_layer(x64: None, eager: None, backend: str) -> None:
    layer = LSTM(3, 5, return_state=True, param_dtype=jnp.float32, backend=backend, rngs=nnx.Rngs(0))
    x = make_arrays(CASE).x
    halves = LSTMState(jnp.full((2, 5), 0.5), jnp.full((2, 5), 0.25))
    assert halves.h.dtype == jnp.float64
    got = layer(x, initial_state=halves)
    assert got[0].dtype == jnp.float32
    assert_close(got, layer(x, initial_state=LSTMState(*(a.astype(jnp.float32) for a in halves))), 0.0)


WIDE = np.array([[0, 1, 2, 2**32 + 1]] * 2)


@pytest.mark.parametrize("backend", EVERY_CASE)
def test_ints_of_64_bits_are_not_cut(x64: None, eager: None, backend: str) -> None:
    operands = usual()
    with jax.disable_jit(False):
        outputs, _ = jax.jit(lambda x: run(operands | {"x": x}, backend))(jnp.asarray(WIDE))
    assert np.isnan(outputs[:, 3]).all()  # an id that the kernel has no row for, not id 1
    assert np.isfinite(outputs[:, :3]).all()
    with pytest.raises(InputError, match=r"^x: id"):
        run(operands | {"x": jnp.asarray(WIDE)}, backend)
    run(operands | {"x": jnp.asarray(WIDE), "lengths": np.array([3, 3])}, backend)  # at padding any id will do
    want = run(operands | {"mask": np.ones((2, 4), bool)}, "reference")
    assert_close(run(operands | {"lengths": jnp.asarray([2**32 + 1, 4])}, backend), want, "float32")
    assert_close(run(operands | {"tokens": jnp.asarray(WIDE)}, backend), want, "float32")
    none = run(operands | {"lengths": jnp.asarray([-(2**32) + 1, -1])}, backend)
    np.testing.assert_array_equal(none[1].h, operands["initial_state"].h)


def test_more_steps_than_an_int8_counts() -> None:
    params = usual()["params"]
    x = jnp.ones((2, 130, 3))
    got = run({"params": params, "x": x, "lengths": np.array([127, -128], np.int8)}, "hoisted")
    assert_close(got, run({"params": params, "x": x, "lengths": np.array([127, 0])}, "hoisted"), 0.0)


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


def test_zoneout_of_other_dtypes(eager: None) -> None:
    operands = usual()
    drawn = np.random.default_rng(0).random((4, 2, 5)) < 0.5
    want = run(operands | {"dropout": DropoutMasks(zoneout={"h": drawn})}, None)
    assert_close(run(operands | {"dropout": DropoutMasks(zoneout={"h": drawn.astype(np.int32)})}, None), want, 0.0)
    want = run(operands | {"dropout": DropoutMasks(zoneout={"c": jnp.float32(0.5)})}, None)
    assert_close(run(operands | {"dropout": DropoutMasks(zoneout={"c": 0.5})}, None), want, 0.0)
    with pytest.raises(InputError, match=r"^dropout.zoneout of h: float32; give bools of shape \(4, 2, 5\), or a float of shape \(\)"):
        run(operands | {"dropout": DropoutMasks(zoneout={"h": drawn * np.float32(0.3)})}, None)
    with pytest.raises(InputError, match=r"^dropout\.zoneout: ndarray; give"):
        run(operands | {"dropout": DropoutMasks(zoneout=drawn)}, None)


def diagonal() -> Cell:
    """Return a user's cell with the step h' = decay h + z, whose state also counts the steps."""

    class Params(NamedTuple):
        kernel: jax.Array
        decay: jax.Array

    class State(NamedTuple):
        h: jax.Array
        count: jax.Array

    def init(key, features, units, dtype=jnp.float32):
        return Params(jax.random.normal(key, (features, units), dtype), jnp.full((units,), 0.5, dtype))

    def start(batch, units, dtype=jnp.float32):
        return State(jnp.zeros((batch, units), dtype), jnp.zeros((batch, 1), jnp.int32))

    def step(params, state, z, mask=None, compute_dtype=None):
        return State(jnp.broadcast_to(params.decay, z.shape) * state.h + z, state.count + 1)

    return Cell("diagonal", 1, Params, init, jnp.zeros, start, step, lambda params, x, mask, compute_dtype: x @ params.kernel)


def test_a_cell_of_one_s_own_says_what_fits() -> None:
    cell = diagonal()
    params, x = cell.init(jax.random.key(0), 3, 5), usual()["x"]
    state = check_arguments(cell, params, x, [jnp.ones((2, 5), jnp.bfloat16), np.ones((2, 1), bool)]).state
    assert (type(state).__name__, state.h.dtype, state.count.dtype) == ("State", jnp.float32, jnp.int32)
    with pytest.raises(InputError, match=r"^initial_state.count: \(2, 5\); give shape \(2, 1\)"):
        check_arguments(cell, params, x, [jnp.ones((2, 5)), jnp.ones((2, 5))])
    with pytest.raises(InputError, match=r"^params.decay: \(4,\); give shape \(5,\)"):
        check_arguments(cell, params._replace(decay=params.decay[:4]), x)


def test_a_name_is_no_cell(unchecked: None) -> None:
    with pytest.raises(InputError, match=r"^cell: lstm; give a Cell"):
        unroll("lstm", usual()["params"], usual()["x"])


def test_recurrent_kernel_put_in_by_nnx_update() -> None:
    for layer, shape in ((LSTM(3, 5, rngs=nnx.Rngs(0)), (20, 5)), (GRU(3, 5, rngs=nnx.Rngs(0)), (15, 5))):
        nnx.update(layer, {"recurrent_kernel": layer.recurrent_kernel[...].T})
        with pytest.raises(InputError, match=rf"^params.recurrent_kernel: \({shape[0]}, 5\); give shape \(5, {shape[0]}\)"):
            layer(usual()["x"])


@pytest.mark.parametrize(("backend", "promotion"), [*((name, "strict") for name in EVERY_CASE), (None, "standard")])
def test_the_same_within_transformations(backend: str | None, promotion: str) -> None:
    """Operands are checked and converted also within `jit`, `vmap` and `grad`, and gradients have the dtype of the given operand."""
    operands = usual()

    def loss(backend, x, state, mask, lengths):
        given = {"x": x, "initial_state": state, "lengths": lengths, "dropout": DropoutMasks(mask)}
        if lengths.dtype == jnp.int8:
            with pytest.raises(InputError, match=r"^lengths: \(1,\)"):
                run(operands | given | {"lengths": lengths[:1]}, backend)
        return weigh(run(operands | given, backend))

    def gradients(backend, *args):
        return jax.jit(jax.vmap(jax.grad(lambda *args: loss(backend, *args), (0, 1))))(*args)

    x, state = operands["x"], [a.astype(jnp.float16) for a in operands["initial_state"]]
    xs, states, masks = jnp.stack([x, -x]), [jnp.stack([a, a]) for a in state], np.stack([KEPT, ~KEPT])
    with jax.numpy_dtype_promotion(promotion):
        d_x, d_state = gradients(backend, xs, states, masks, np.array([[9, 2], [-1, 3]], np.int8))
    clean = [a.astype(jnp.float32) for a in states], masks.astype(np.float32), np.array([[4, 2], [0, 3]])
    want = gradients("reference", xs, *clean)
    assert d_state[0].dtype == jnp.float16
    assert_close(d_x, want[0], "float32")
    assert_close([a.astype(jnp.float32) for a in d_state], want[1], 1e-3)


@pytest.mark.parametrize("backend", EVERY_CASE)
def test_no_rows(backend: str) -> None:
    operands = usual() | {"x": jnp.zeros((0, 4, 3)), "initial_state": None, "lengths": np.zeros(0, np.int32)}
    outputs, state = run(operands, backend)
    assert outputs.shape == (0, 4, 5)
    assert state.c.shape == (0, 5)


def test_every_backend_here_is_seen() -> None:
    assert set(EVERY_CASE) | {"associative"} >= set(BACKENDS)
