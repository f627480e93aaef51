"""Tests of the backend `cudnn`. Only `test_on_a_gpu` needs the library cuDNN.

To test the code around the calls of cuDNN, the reference implementation in
jax.experimental.rnn takes the place of cuDNN.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, compare_with_reference, make_arrays, run_case, weigh
from jax.experimental import rnn
from jax.sharding import NamedSharding, PartitionSpec
from tables import Shape, assert_close, lengths

from lstm_jax.base.errors import InputError
from lstm_jax.base.sharding import DATA, make_mesh, on
from lstm_jax.recurrence import BACKENDS, backends, cudnn

SHAPE = Shape(5, 7, 3, 4)


def _library(x, h, c, weights, lengths, sizes: tuple[int, int]):
    """Return the results of the LSTM of cuDNN, computed in plain JAX by `rnn.lstm_ref`."""
    parts = rnn.unpack_lstm_weights(weights, *sizes, 1, False)
    return rnn.lstm_ref(x, h, c, *parts, lengths, *sizes, 1, 0.0, False)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace cuDNN by the reference implementation in jax.experimental.rnn, and allow
    the backend `cudnn` on a CPU.
    """

    def lstm_fwd(*args):
        assert args[7:] == (1, 0.0, False, jax.lax.Precision.HIGHEST)
        return _library(*args[:5], args[5:7]), args[:5]

    def lstm_bwd(*args):
        *options, (*arrays, lengths), cotangents = args
        assert options[2:] == [1, 0.0, False, jax.lax.Precision.HIGHEST]
        _, pull = jax.vjp(lambda *arrays: _library(*arrays, lengths, args[:2]), *arrays)
        return (*pull(cotangents), None)

    monkeypatch.setattr(cudnn.rnn, "lstm_fwd", lstm_fwd)
    monkeypatch.setattr(cudnn.rnn, "lstm_bwd", lstm_bwd)
    row = replace(BACKENDS["cudnn"], platforms=("cpu", "gpu"), why_not=str)
    monkeypatch.setitem(backends.BACKENDS, "cudnn", row)


@pytest.mark.parametrize(
    ("case", "counted"),
    [
        (Case(SHAPE), False),
        (
            Case(
                SHAPE, dropout="input, shared", backwards=True, return_sequences=False
            ),
            False,
        ),
        (Case(Shape(1, 1, 1, 1), time_major=True, initial_state=False), False),
        (Case(SHAPE), True),
        (Case(SHAPE, zero_output=True, ids=True), True),
    ],
)
def test_gradients_are_the_references(library: None, case: Case, counted: bool) -> None:
    """Results and gradients equal those of `reference`, also with lengths that include
    0 and T.
    """
    options = (
        {"lengths": jnp.asarray(lengths(np.random.default_rng(0), *case.shape[:2]))}
        if counted
        else {}
    )
    compare_with_reference("cudnn", case, **options)


def test_vmap_and_mesh(library: None) -> None:
    """Under `vmap` over parameter sets, and with rows split over two devices, the loss
    and its gradients equal those of a plain call.
    """
    case = Case(Shape(4, 3, 3, 2))
    arrays = make_arrays(case)

    def gradients(params, x):
        return jax.value_and_grad(
            lambda params: weigh(
                run_case(case, arrays._replace(params=params, x=x), "cudnn")
            )
        )(params)

    alone = jax.jit(gradients)(arrays.params, arrays.x)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), arrays.params)
    together = jax.jit(jax.vmap(gradients, (0, None)))(stacked, arrays.x)
    doubled = jax.jit(gradients)(
        jax.tree.map(lambda leaf: 2 * leaf, arrays.params), arrays.x
    )
    assert_close(
        together,
        jax.tree.map(lambda *leaves: jnp.stack(leaves), alone, doubled),
        "float32",
    )
    if jax.device_count() < 2:
        return
    mesh = make_mesh(2)
    with on(mesh):
        rows = jax.device_put(arrays.x, NamedSharding(mesh, PartitionSpec(DATA)))
        assert_close(jax.jit(gradients)(arrays.params, rows), alone, "float32")


def test_no_second_derivative(library: None) -> None:
    arrays = make_arrays(Case(SHAPE))

    def norm(x):
        return (
            jax.grad(
                lambda x: weigh(run_case(Case(SHAPE), arrays._replace(x=x), "cudnn"))
            )(x)
            ** 2
        ).sum()

    with pytest.raises(
        InputError, match=r"^backend cudnn: asked for a derivative of order 2; "
    ):
        jax.grad(norm)(arrays.x)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    """On a GPU, cuDNN without TF32 has the results and gradients of `reference`, for
    rows of different lengths.
    """
    case, counts = (
        Case(Shape(33, 40, 20, 64)),
        jnp.asarray(lengths(np.random.default_rng(0), 33, 40)),
    )
    compare_with_reference("cudnn", case, tolerance=2e-5, lengths=counts)


def test_the_librarys_own_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program for a gradient on a GPU contains one forward call and one backward call
    of cuDNN.

    Both calls allow TF32, unless full precision is requested. The program is only
    traced, so that the test needs no GPU.
    """
    monkeypatch.setattr(
        rnn.gpu_rnn,
        "compute_rnn_workspace_reserve_space_sizes",
        lambda *_: (0, 16),
        raising=False,
    )
    monkeypatch.setitem(
        backends.BACKENDS,
        "cudnn",
        replace(
            BACKENDS["cudnn"],
            platforms=("cpu", "gpu"),
            why_not=str,
            what="cuDNN itself",
        ),
    )
    arrays = make_arrays(Case(SHAPE))
    for name, tf32 in (
        ("highest", False),
        ("float32", False),
        ("default", True),
        ("high", True),
    ):
        with jax.default_matmul_precision(name):
            program = str(
                jax.make_jaxpr(
                    jax.grad(
                        lambda x: weigh(
                            run_case(Case(SHAPE), arrays._replace(x=x), "cudnn")
                        )
                    )
                )(arrays.x)
            )
        assert (program.count(" rnn_fwd["), program.count(" rnn_bwd[")) == (1, 1)
        assert program.count(f"cudnn_allow_tf32={tf32}") == 2
