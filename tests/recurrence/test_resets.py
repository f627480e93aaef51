"""Resets within a sequence, compared with sequences that are cut at the resets in Python and whose pieces are run one by one.

This comparison is in float64. It covers the outputs, the final states, and the gradients with respect to every argument, including the
reset state.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, differentiate, make_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import EVERY_BACKEND, MASKS, TOLERANCE, Shape, assert_close, lacking, precision

from lstm_jax import CELLS, DropoutMasks, InputError, unroll
from lstm_jax.primitives.operation import apply
from lstm_jax.recurrence import BACKENDS, Request, backends, hoisted, lacks
from lstm_jax.recurrence import pallas as kernels, pallas as loops
from lstm_jax.runtime import sharding

pytestmark = pytest.mark.usefixtures("quick_compiles")

SHAPE = Shape(2, 6, 3, 4)
PATTERNS = {
    "none": lambda rng: np.zeros(SHAPE[:2], bool),
    "all": lambda rng: np.ones(SHAPE[:2], bool),
    "first": lambda rng: np.arange(SHAPE.steps)[None] == np.zeros((SHAPE.batch, 1)),
    "last": lambda rng: np.arange(SHAPE.steps)[None] == np.full((SHAPE.batch, 1), SHAPE.steps - 1),
    "one row": lambda rng: np.arange(SHAPE.batch)[:, None] * np.ones(SHAPE.steps) == 1,
    "some": lambda rng: rng.random(SHAPE[:2]) < 0.3,
}


class Cut(NamedTuple):
    """Options of a call of `unroll` for which a program is compiled. The program is used for all values of the arrays.

    Attributes:
        learned: whether a reset state is given. Without one, the state is reset to zeros.
        masked: whether a padding mask is given.
        dropout: name of a kind of dropout in `tables.DROPOUTS`.
        backwards: argument of `unroll`.
        return_sequences: argument of `unroll`.
        zero_output: argument `zero_output_for_mask` of `unroll`.
        initial_state: whether an initial state is given.
    """

    learned: bool = True
    masked: bool = False
    dropout: str = "none"
    backwards: bool = False
    return_sequences: bool = True
    zero_output: bool = False
    initial_state: bool = True


CUTS = (
    Cut(),
    Cut(masked=True, dropout="both, per gate", initial_state=False),
    Cut(learned=False, masked=True, backwards=True, zero_output=True),
    Cut(masked=True, dropout="both, shared", return_sequences=False),
    Cut(learned=False, dropout="recurrent, shared", backwards=True, initial_state=False),
)
values = st.tuples(st.sampled_from(list(PATTERNS)), st.sampled_from(list(MASKS)[1:]), st.integers(0, 99))


def _arrays(cut: Cut, cell: str = "lstm", pattern: str = "some", mask: str = "gaps", seed: int = 0):
    """Return (params, x, initial state, dropout, reset state) and (mask, resets). The initial state, reset state and mask may be None."""
    arrays = make_arrays(Case(SHAPE, mask if cut.masked else "none", cut.dropout, seed=seed), "float64", cell)
    rng = np.random.default_rng(seed)
    learned = jax.tree.map(lambda part: jnp.asarray(rng.normal(size=part.shape)), arrays.state)
    resets = np.asarray(PATTERNS[pattern](rng))
    state = arrays.state if cut.initial_state else None
    return (arrays.params, arrays.x, state, arrays.dropout, learned if cut.learned else None), (arrays.mask, resets)


def _pieces(resets: np.ndarray, backwards: bool) -> Iterator[slice]:
    """Return an iterator over the slices of a row that is cut before each reset. If `backwards`, the last slice comes first."""
    borders = [0, *(np.flatnonzero(resets[1:]) + 1), len(resets)]
    pieces = [slice(a, b) for a, b in pairwise(borders)]
    return iter(pieces[::-1] if backwards else pieces)


def _options(cut: Cut) -> dict[str, Any]:
    return {"backwards": cut.backwards, "return_sequences": cut.return_sequences, "zero_output_for_mask": cut.zero_output}


def _on_host(cut: Cut, cell: str, arrays: tuple, mask: Any, resets: np.ndarray):
    """Return (results, gradients) that are computed without resets.

    Each row is cut into pieces at its resets. The backend `reference` runs the pieces one by one, without `jax.jit`.
    """

    def run(params, x, state, dropout, learned):
        later = CELLS[cell].initial_state(SHAPE.batch, SHAPE.units, x.dtype) if learned is None else learned
        first = later if state is None else state
        rows = []
        for b in range(SHAPE.batch):
            row = jax.tree.map(lambda part, b=b: part[b : b + 1], (first, later))
            masks = jax.tree.map(lambda part, b=b: part[..., b : b + 1, :], DropoutMasks(*dropout[:2]))
            outputs, start = [], row[1] if resets[b, 0] and not cut.backwards else row[0]
            for piece in _pieces(resets[b], cut.backwards):
                own = {"mask": None if mask is None else mask[b : b + 1, piece], "dropout": masks, "backend": "reference"}
                found, final = unroll(CELLS[cell], params, x[b : b + 1, piece], start, **own, **_options(cut))
                outputs.append(found)
                start = row[1]
            rows.append((jnp.concatenate(outputs, 1) if cut.return_sequences else outputs[-1], final))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *rows)

    with jax.disable_jit():
        return differentiate(run, *arrays)


@lru_cache
def _program(cut: Cut, cell: str, backend: str, remat: Any = None):
    """Return a compiled function of (arrays, mask, resets) that returns (results, gradients).

    The function is compiled at the first call. Later calls may have other values in the arrays.
    """

    def program(arrays, mask, resets):
        def run(params, x, state, dropout, learned):
            own = {"mask": mask, "resets": resets, "reset_state": learned, "dropout": dropout, "backend": backend, "remat": remat}
            return unroll(CELLS[cell], params, x, state, **own, **_options(cut))

        return differentiate(run, *arrays)

    return jax.jit(program)


@pytest.mark.slow(keep=["both, per gate"])
@pytest.mark.parametrize("cut", CUTS, ids=str)
@given(drawn=values)
@settings(max_examples=2)
def test_reference_is_the_host(cut: Cut, drawn):
    with precision("float64"):
        arrays, steps = _arrays(cut, "lstm", *drawn)
        assert_close(_program(cut, "lstm", "reference")(arrays, *steps), _on_host(cut, "lstm", arrays, *steps), "float64")


@pytest.mark.slow(keep=["compiled-Cut(learned=True, masked=True", "compiled-Cut(learned=False, masked=True", "hoisted-Cut(learned=False"])
@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("backend", [name for name in EVERY_BACKEND if name not in ("reference", "associative")])
@given(drawn=values)
def test_backends_are_the_reference(backend: str, cut: Cut, drawn):
    with precision("float64"):
        if lacking(backend, dtype="float64", compute_dtype="float64", resets=True):
            pytest.skip(lacking(backend, dtype="float64", compute_dtype="float64", resets=True))
        arrays, steps = _arrays(cut, "lstm", *drawn)
        got, want = (_program(cut, "lstm", name)(arrays, *steps) for name in (backend, "reference"))
        assert_close(got, want, "float64")


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("cell", [name for name in CELLS if name != "lstm"])
def test_every_cell(x64, cell: str):
    cut = Cut(masked=True, dropout="input, shared")
    arrays, steps = _arrays(cut, cell, seed=len(cell))
    want = _on_host(cut, cell, arrays, *steps)
    for backend in ("reference", "compiled", "associative"):
        if lacking(backend, cell=cell, dtype="float64", compute_dtype="float64"):
            continue
        assert_close(_program(cut, cell, backend)(arrays, *steps), want, "float64", backend)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("cell", CELLS)
def test_nan_does_not_cross_a_reset(x64, cell: str):
    """A NaN in x before a reset reaches no output after the reset, and no output of another row.

    The gradients of the outputs after the reset are finite with respect to x after the reset and with respect to x of other rows.
    """
    row = CELLS[cell]
    params = row.init(jax.random.key(0), 4, 5, jnp.float64)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 6, 4))).at[0, 1].set(jnp.nan)
    resets = jnp.zeros((3, 6), bool).at[0, 3].set(True)

    def outputs(x, backend):
        return unroll(row, params, x, resets=resets, backend=backend)[0]

    for backend in (None, "reference", *["associative"] * (row.linear is not None)):
        nan = np.isnan(outputs(x, backend))
        assert nan[0, 1:3].any(-1).all(), backend
        assert not nan[0, 3:].any(), backend
        assert not nan[1:].any(), backend
        d_x = jax.grad(lambda x, backend=backend: (outputs(x, backend)[:, 3:] ** 2).sum())(x)
        assert np.isfinite(d_x[0, 3:]).all(), backend
        assert np.isfinite(d_x[1:]).all(), backend


@pytest.mark.parametrize("remat", [2, "sqrt"])
def test_remat_keeps_resets(x64, remat):
    arrays, steps = _arrays(CUTS[0])
    want = _program(CUTS[0], "lstm", "reference")(arrays, *steps)
    for backend in ("reference", "compiled"):
        if not lacking(backend, dtype="float64", compute_dtype="float64"):
            assert_close(_program(CUTS[0], "lstm", backend, remat)(arrays, *steps), want, "float64", backend)


def _interpreted(options, call):
    return apply(hoisted.HoistedLSTM(loops.INTERPRETED, options), *call)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_pallas_kernels(monkeypatch: pytest.MonkeyPatch, masked: bool, resident: bool):
    monkeypatch.setattr(kernels, "RESIDENT", kernels.RESIDENT * resident)
    monkeypatch.setitem(backends.BACKENDS, "pallas", replace(BACKENDS["pallas"], run=_interpreted, platforms=("cpu",)))
    cut = Cut(masked=masked, dropout="recurrent, per gate")
    with jax.enable_x64(True):
        arrays, steps = jax.tree.map(np.asarray, _arrays(cut))
    arrays = jax.tree.map(lambda part: jnp.asarray(part, jnp.float32), arrays)
    got, want = (_program.__wrapped__(cut, "lstm", backend)(arrays, *steps) for backend in ("pallas", "reference"))
    assert_close(got, want, "float32")


def test_no_gradient_crosses_a_reset(x64):
    """Gradients of the outputs after a reset are exactly 0 with respect to x before the reset and to the initial state."""
    arrays, _ = _arrays(Cut())
    params, x, state = arrays[:3]
    resets = np.zeros(SHAPE[:2], bool)
    resets[:, 3] = True
    for backend in ("reference", "compiled", "hoisted"):
        if lacking(backend, dtype="float64", compute_dtype="float64"):
            continue

        def after(x, state, backend=backend):
            return unroll(CELLS["lstm"], params, x, state, resets=resets, backend=backend)[0][:, 3:].sum()

        d_x, d_state = jax.jit(jax.grad(after, (0, 1)))(x, state)
        assert not np.any(np.asarray(d_x[:, :3])), backend
        assert np.all(np.asarray(d_x[:, 3:]) != 0), backend
        assert not any(np.any(np.asarray(part)) for part in d_state), backend


def test_padding_may_hold_nan(x64):
    arrays, (_, resets) = _arrays(Cut())
    params, x, state = arrays[:3]
    mask = np.ones(SHAPE[:2], bool)
    mask[:, 2] = False
    dirty = x.at[:, 2].set(jnp.nan)
    for backend in ("reference", "compiled", "hoisted"):
        if not lacking(backend, dtype="float64", compute_dtype="float64"):
            got, want = (
                differentiate(lambda x, b=backend: unroll(CELLS["lstm"], params, x, state, mask=mask, resets=resets, backend=b), values)
                for values in (dirty, x)
            )
            assert_close(got, want, TOLERANCE["float64"], backend)


SEGMENTS = np.array([[1, 1, 2, 2, 0, 0], [0, 5, 0, 7, 8, 8]], np.int32)
STARTS = np.array([[0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]], bool)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("time_major", [False, True])
def test_segment_ids_are_resets_and_a_mask(x64, backwards: bool, time_major: bool):
    arrays, _ = _arrays(Cut())
    params, x, state, _, learned = arrays
    turn = (lambda array: np.swapaxes(array, 0, 1)) if time_major else (lambda array: array)
    order: Any = {"backwards": backwards, "time_major": time_major, "reset_state": learned}
    got = unroll(CELLS["lstm"], params, turn(x), state, segment_ids=turn(SEGMENTS), **order)
    want = unroll(CELLS["lstm"], params, turn(x), state, mask=turn(SEGMENTS != 0), resets=turn(STARTS), **order)
    assert_close(got, want, 0.0)


def test_segment_ids_of_64_bits_stay_apart():
    arrays = make_arrays(Case(SHAPE))
    wide = np.where(SEGMENTS == 2, 2**32 + 1, SEGMENTS.astype(np.int64) * 2**32)
    got, want = (unroll(CELLS["lstm"], arrays.params, arrays.x, segment_ids=ids) for ids in (wide, SEGMENTS))
    assert_close(got, want, 0.0)


def test_segment_ids_of_one_step_in_both_directions():
    """A program that runs sequences of one step in both directions with `segment_ids` has the outputs of `reference`.

    Such a program once contained empty arrays, for which jaxlib loses attributes of calls of compiled code. The calls then failed.
    """
    arrays = make_arrays(Case(Shape(2, 1, 3, 4), initial_state=False))

    @jax.jit
    def both(ids):
        options = {"segment_ids": ids, "zero_output_for_mask": True}
        return [unroll(CELLS["lstm"], arrays.params, arrays.x, backwards=backwards, **options)[0] for backwards in (False, True)]

    want = unroll(CELLS["lstm"], arrays.params, arrays.x, backend="reference")[0].at[1].set(0)
    assert_close(both(jnp.asarray([[7], [0]])), [want, want], "float32")


def test_pallas_on_a_mesh_with_and_without_resets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(backends.BACKENDS, "pallas", replace(BACKENDS["pallas"], run=_interpreted, platforms=("cpu",)))
    arrays = make_arrays(Case(SHAPE))
    resets = np.asarray(PATTERNS["some"](np.random.default_rng(0)))

    def run(params, x, resets, backend):
        return unroll(CELLS["lstm"], params, x, resets=resets, backend=backend)

    with sharding.on(sharding.make_mesh(2)):
        for given in (None, resets):
            got, want = (jax.jit(run, static_argnums=3)(arrays.params, arrays.x, given, name) for name in ("pallas", "reference"))
            assert_close(got, want, "float32")


def test_a_shared_reset_state_is_broadcast_and_is_the_initial_state(x64):
    arrays, (_, resets) = _arrays(Cut())
    params, x = arrays[:2]
    shared = jax.tree.map(lambda part: part[0], arrays[4])
    whole = jax.tree.map(lambda part: jnp.broadcast_to(part[0], part.shape), arrays[4])

    def run(reset_state, initial_state):
        return unroll(CELLS["lstm"], params, x, initial_state, resets=resets, reset_state=reset_state)

    assert_close(run(shared, None), run(whole, whole), 0.0)
    d_shared = jax.grad(lambda state: run(state, None)[0].sum())(shared)
    d_whole = jax.grad(lambda state: run(state, state)[0].sum())(whole)
    assert_close(d_shared, jax.tree.map(lambda part: part.sum(0), d_whole), "float64")


REFUSED = {
    "resets: (2, 7); give (B, T), or (T, B) if time_major": {"resets": np.zeros((2, 7), bool)},
    "resets: float32; give bools": {"resets": np.zeros((2, 6), np.float32)},
    "segment_ids: float64; give ints": {"segment_ids": np.zeros((2, 6))},
    "segment_ids: (2,); give (B, T)": {"segment_ids": np.zeros(2, int)},
    "segment_ids: given with mask": {"segment_ids": SEGMENTS, "mask": SEGMENTS > 0},
    "segment_ids: given with lengths": {"segment_ids": SEGMENTS, "lengths": np.array([1, 2])},
    "segment_ids: given with resets": {"segment_ids": SEGMENTS, "resets": STARTS},
    "reset_state: given without resets": {"reset_state": (np.zeros(4), np.zeros(4))},
    "reset_state.h: (3,); give shape (2, 4) or (4,)": {"resets": STARTS, "reset_state": (np.zeros(3), np.zeros(4))},
    "reset_state: tuple of 1; give LSTMState(h, c)": {"resets": STARTS, "reset_state": (np.zeros(4),)},
    "backend cudnn: ": {"resets": STARTS, "backend": "cudnn"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message: str):
    arrays = make_arrays(Case(SHAPE))
    with pytest.raises(InputError) as raised:
        unroll(CELLS["lstm"], arrays.params, arrays.x, **REFUSED[message])
    assert str(raised.value).startswith(message)


def test_cudnn_says_that_it_has_no_resets():
    assert lacks(BACKENDS["cudnn"], Request(resets=True), "gpu") == "no resets"
