"""Tests that `unroll` converts operands as Keras and JAX do, or refuses them with a
one-line error that names them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, make_arrays, weigh
from tables import EVERY_CASE, Shape, assert_close

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import DropoutMasks, InputError, unroll
from lstm_jax.cells import Cell, HiddenState
from lstm_jax.recurrence.operands import Arguments, check_arguments

SHAPE = Shape(2, 4, 3, 5)  # all four differ
CASE = Case(SHAPE)
LENGTHS = np.array([3, 0], np.int32)
KEPT = np.array([[True, False, True], [True, True, False]])
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 1]])
IDS = np.array([[0, 2, 1, -1], [1, 1, 0, 2]], np.int32)

PARAMS, X, STATE, *_ = make_arrays(CASE)


def usual(cell: str = "lstm") -> dict[str, Any]:
    arrays = make_arrays(CASE, "float32", cell)
    return {"params": arrays.params, "x": arrays.x, "initial_state": arrays.state}


def run(operands: dict[str, Any], backend: str | None, cell: str = "lstm"):
    return unroll(CELL_TABLE[cell], backend=backend, **operands)


KERNEL = PARAMS.kernel
# subject of the error -> values of the operand, which is named first in the subject
WRONG: dict[str, list[Any]] = {
    "params": [tuple(PARAMS)],
    "params.kernel": [
        PARAMS._replace(kernel=array)
        for array in (
            KERNEL[:, :18],
            KERNEL[:0],
            KERNEL[:, :0],
            KERNEL.astype(jnp.int8),
            KERNEL.astype(jnp.float8_e4m3fn),
        )
    ],
    "params.recurrent_kernel": [
        PARAMS._replace(kernel=KERNEL[:, :16]),
        PARAMS._replace(recurrent_kernel=PARAMS.recurrent_kernel.T),
    ],
    "params.bias": [
        PARAMS._replace(bias=array)
        for array in (None, PARAMS.bias[:-1], PARAMS.bias.astype(jnp.float16))
    ],
    "x": [
        *(jnp.ones(shape) for shape in ((4, 3), (2, 4, 4), (2, 4, 3, 1), (2, 0, 3))),
        np.full((2, 4, 3), "a"),
        jax.random.split(jax.random.key(0), (2, 4)),
        None,
        [[[1.0]], [1.0]],
        np.array([[0, 3, 0, 0]] * 2),
        np.array([[0, -4, 0, 0]] * 2),
    ],
    "initial_state": [STATE.h, HiddenState(STATE.h), STATE[:1], [*STATE, STATE.h]],
    "initial_state.c": [STATE._replace(c=None), STATE._replace(c=STATE.c[:1])],
    "dropout": [(KEPT, None)],
    "dropout.input": [DropoutMasks(KEPT[:, :2]), DropoutMasks(np.stack([KEPT] * 3))],
    "dropout.recurrent": [DropoutMasks(None, KEPT)],
    "dropout.zoneout": [DropoutMasks(zoneout=MASK)],
    "dropout.zoneout of h": [
        DropoutMasks(zoneout={"h": array})
        for array in (np.ones((4, 2, 5), np.float32), np.ones((4, 1, 5), bool))
    ],
    "mask": [MASK.T],
    "lengths": [LENGTHS.astype(np.float32), 3],
    "tokens": [IDS.T],
    "segment_ids": [MASK * 1.0],
    "resets": [MASK],
    "compute_dtype": ["float99", "float64"],
    "remat": [0, 2.0, True],
}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    *(
        (subject, {subject.partition(".")[0]: value})
        for subject, values in WRONG.items()
        for value in values
    ),
    ("x", {"x": jnp.ones((0, 2, 3)), "time_major": True}),
    ("initial_state.h", {"x": jnp.swapaxes(X, 0, 1)}),
    ("zoneout of i", {"dropout": DropoutMasks(zoneout={"i": 0.5})}),
    ("lengths", {"mask": MASK, "lengths": LENGTHS}),
    ("mask", {"x": jnp.swapaxes(X, 0, 1), "mask": MASK, "time_major": True}),
    ("segment_ids", {"segment_ids": MASK, "resets": MASK > 0}),
    ("segment_ids", {"segment_ids": MASK, "mask": MASK}),
    ("segment_ids", {"segment_ids": MASK, "lengths": LENGTHS}),
    ("reset_state", {"reset_state": STATE}),
    ("reset_state.h", {"resets": MASK > 0, "reset_state": (np.zeros(3), np.zeros(5))}),
    ("reset_state", {"resets": MASK > 0, "reset_state": (np.zeros(5),)}),
    ("backend", {"compute_dtype": jnp.int16}),
    ("remat", {"remat": 2, "dropout": DropoutMasks(zoneout={"h": 0.5})}),
]


@pytest.mark.parametrize(("subject", "change"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(
    subject: str, change: dict[str, Any], unchecked: None
) -> None:
    for backend in (None, "reference"):
        with pytest.raises(InputError) as caught:
            run(usual() | change, backend)
        assert caught.value.subject in (subject, f"{subject} {backend}")
        assert "\n" not in str(caught.value)


def test_a_mask_for_a_state_that_no_kernel_multiplies() -> None:
    with pytest.raises(InputError, match=r"^dropout\.recurrent: "):
        run(
            usual("min_gru") | {"dropout": DropoutMasks(None, jnp.ones((2, 5)))},
            None,
            "min_gru",
        )


SMALL_KERNEL = PARAMS._replace(kernel=KERNEL * np.float32(2.0**-40))
ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "x, NumPy's ints of 64 bits": (
        {"params": SMALL_KERNEL, "x": np.full((2, 4, 3), 2**40)},
        {"params": SMALL_KERNEL, "x": np.full((2, 4, 3), 2.0**40, np.float32)},
    ),
    "ids, some dropped": (
        {"x": IDS, "dropout": DropoutMasks(KEPT)},
        {
            "x": jax.nn.one_hot(IDS % 3, 3),
            "dropout": DropoutMasks(KEPT.astype(np.float32)),
        },
    ),
    "state, int32": (
        {"initial_state": STATE._replace(c=(2 * STATE.c).astype(int))},
        {"initial_state": STATE._replace(c=jnp.trunc(2 * STATE.c))},
    ),
    "zoneout, ints": tuple(
        {"dropout": DropoutMasks(zoneout={"h": np.ones((4, 2, 5), dtype)})}
        for dtype in (int, bool)
    ),
    "lengths, beyond 32 bits": (
        {"lengths": np.array([2**32 + 1, -(2**32) + 3])},
        {"mask": np.array([[True] * 4, [False] * 4])},
    ),
    "tokens": (
        {"x": X[:, [0, 0, 0, 0]], "tokens": np.full((2, 4), 7)},
        {"x": X[:, [0, 0, 0, 0]]},
    ),
    "tokens, beyond 32 bits": (
        {"tokens": np.array([[1, 2**32 + 1, 2**33 + 1, 2**34 + 1]] * 2)},
        {},
    ),
    "tokens, uint32": (
        {"tokens": np.array([[1, 2, 2**32 - 1, 2**31]] * 2, np.uint32)},
        {},
    ),
}


@pytest.mark.slow(keep=8)
@pytest.mark.parametrize("name", ALIKE)
def test_what_can_be_converted_equals_the_reference(name: str, eager: None) -> None:
    given, clean = ALIKE[name]
    want = run(usual() | clean, "reference")
    # operands are converted before a backend runs: the default and one other suffice
    turn = list(ALIKE).index(name) % len(EVERY_CASE)
    for backend in (
        {"reference"} if "zoneout" in name else {EVERY_CASE[0], EVERY_CASE[turn]}
    ):
        assert_close(run(usual() | given, backend), want, "float32", f"{backend} ")


@pytest.mark.parametrize("backend", EVERY_CASE)
def test_ids_of_64_bits_are_not_cut(x64: None, backend: str) -> None:
    ids = jnp.asarray([[0, 1, 2, 2**32 + 1], [2, 1, 0, 3]])
    outputs, _ = jax.jit(lambda x: run(usual() | {"x": x}, backend))(ids)
    assert np.isnan(outputs[:, 3]).all()  # ids that the kernel has no row for, not id 1
    assert np.isfinite(outputs[:, :3]).all()
    with pytest.raises(InputError, match=r"^x: id"):
        run(usual() | {"x": ids}, backend)
    # at padding any id will do
    run(usual() | {"x": ids, "lengths": np.array([3, 3])}, backend)


def test_more_steps_than_an_int8_counts() -> None:
    given = {"params": usual()["params"], "x": jnp.ones((2, 130, 3))}
    got, want = (
        run(given | {"lengths": np.array(counts, np.int8)}, "hoisted")
        for counts in ([127, -128], [127, 0])
    )
    assert_close(got, want, 0.0)


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
    lambda key, features, units, dtype: Params(
        jax.random.normal(key, (features, units), dtype), jnp.full((units,), 0.5, dtype)
    ),
    jnp.zeros,
    lambda batch, units, dtype: State(
        jnp.zeros((batch, units), dtype), jnp.zeros((batch, 1), jnp.int32)
    ),
    lambda params, state, z, mask, compute_dtype: State(
        jnp.broadcast_to(params.decay, z.shape) * state.h + z, state.count + 1
    ),
    lambda params, x, mask, compute_dtype: x @ params.kernel,
)
"""A user's cell with the step h' = decay h + z, whose state also counts the steps."""


def test_a_cell_of_one_s_own_says_what_fits() -> None:
    params, x = DIAGONAL.init(jax.random.key(0), 3, 5, jnp.float32), usual()["x"]
    state = check_arguments(
        DIAGONAL,
        Arguments(params, x, [jnp.ones((2, 5), jnp.bfloat16), np.ones((2, 1), bool)]),
        False,
    ).state
    assert (type(state).__name__, state.h.dtype, state.count.dtype) == (
        "State",
        jnp.float32,
        jnp.int32,
    )
    with pytest.raises(InputError, match=r"^initial_state.count: \(2, 5\)"):
        unroll(DIAGONAL, params, x, [jnp.ones((2, 5)), jnp.ones((2, 5))])
    with pytest.raises(InputError, match=r"^params.decay: \(4,\)"):
        unroll(DIAGONAL, params._replace(decay=params.decay[:4]), x)


def test_a_name_is_no_cell(unchecked: None) -> None:
    with pytest.raises(InputError, match=r"^cell: lstm; give a Cell"):
        unroll("lstm", usual()["params"], usual()["x"])


@pytest.mark.parametrize(
    ("backend", "promotion"),
    [*((name, "strict") for name in EVERY_CASE), (None, "standard")],
)
def test_the_same_within_transformations(backend: str | None, promotion: str) -> None:
    """Operands are converted also within `jit`, `vmap` and `grad`, and gradients have
    the dtype of the given operand.
    """
    operands = usual()

    def gradients(backend, *args):
        def loss(x, state, mask, lengths):
            return weigh(
                run(
                    operands
                    | {
                        "x": x,
                        "initial_state": state,
                        "lengths": lengths,
                        "dropout": DropoutMasks(mask),
                    },
                    backend,
                )
            )

        return jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(*args)

    xs, masks = jnp.stack([operands["x"], -operands["x"]]), np.stack([KEPT, ~KEPT])
    states = [jnp.stack([a, a]).astype(jnp.float16) for a in operands["initial_state"]]
    with jax.numpy_dtype_promotion(promotion):
        d_x, d_state = gradients(
            backend, xs, states, masks, np.array([[9, 2], [-1, 3]], np.int8)
        )
    clean = (
        [a.astype(jnp.float32) for a in states],
        masks.astype(np.float32),
        np.array([[4, 2], [0, 3]]),
    )
    want = gradients("reference", xs, *clean)
    assert d_state[0].dtype == jnp.float16
    assert_close(d_x, want[0], "float32")
    assert_close([a.astype(jnp.float32) for a in d_state], want[1], 1e-3)
