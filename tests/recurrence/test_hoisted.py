"""Tests that the forward and backward loops of the backend `hoisted` contain only the
matrix products with the recurrent kernel.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, make_arrays, run_case, weigh
from tables import Shape, assert_close, precision

BATCH, STEPS, FEATURES, UNITS = 3, 11, 5, 7
# entries of h U and of dz U^T
RECURRENT = {"forward": BATCH * 4 * UNITS, "backward": BATCH * UNITS}


def inner(equation) -> Iterator:
    seen = set()  # an operation may hold the same program once for each platform
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns") and id(item) not in seen:
                seen.add(id(item))
                yield item


def walk(jaxpr, in_scan: bool = False) -> Iterator:
    """Yield (equation, whether it lies in the body of a scan) for the equations of a
    jaxpr and of all jaxprs nested in it.
    """
    for equation in jaxpr.eqns:
        yield equation, in_scan
        for nested in inner(equation):
            yield from walk(nested, in_scan or equation.primitive.name == "scan")


def loops(function, *args) -> list[list[int]]:
    """Return, for each outermost scan in program order, the sizes of the results of the
    matrix products in its body.
    """
    found = []
    for equation, in_scan in walk(jax.make_jaxpr(function)(*args).jaxpr):
        if equation.primitive.name == "scan" and not in_scan:
            bodies = [pair for nested in inner(equation) for pair in walk(nested)]
            found.append(
                [
                    e.outvars[0].aval.size
                    for e, _ in bodies
                    if e.primitive.name == "dot_general"
                ]
            )
    return found


def gradient_of(case: Case, backend: str):
    arrays = make_arrays(case)

    def loss(params, x, state):
        return weigh(
            run_case(case, arrays._replace(params=params, x=x, state=state), backend)
        )

    return jax.grad(loss, (0, 1, 2)), arrays[:3]


@pytest.mark.parametrize("mask", ["none", "gaps"])
@pytest.mark.parametrize(
    "dropout",
    ["none", "input, shared", "both, shared", "recurrent, per gate", "both, per gate"],
)
def test_the_loops_hold_only_recurrent_products(mask: str, dropout: str) -> None:
    case = Case(Shape(BATCH, STEPS, FEATURES, UNITS), mask=mask, dropout=dropout)
    gradient, arrays = gradient_of(case, "hoisted")
    forward, backward = loops(gradient, *arrays)
    # one product a gate, summed after its mask
    products = 4 if "per gate" in dropout else 1
    assert sum(forward) == RECURRENT["forward"]
    assert sum(backward) == products * RECURRENT["backward"]
    assert not {
        FEATURES * 4 * UNITS,
        UNITS * 4 * UNITS,
        FEATURES * UNITS,
        UNITS * UNITS,
    } & {*forward, *backward}


def test_saturated_gates_have_finite_gradients() -> None:
    case = Case(Shape(BATCH, STEPS, FEATURES, UNITS))
    gradient, (params, x, state) = gradient_of(case, "hoisted")
    large = jax.tree.map(lambda a: a * 1e4, params)
    assert all(
        np.isfinite(leaf).all()
        for leaf in jax.tree.leaves(gradient(large, x * jnp.float32(1e4), state))
    )


def test_gates_that_are_almost_closed() -> None:
    """An input gate of 4e-8 keeps its digits, which it would lose if it were computed
    as 0.5 tanh(z / 2) + 0.5.
    """
    case = Case(Shape(2, 5, 3, 4), initial_state=False)
    arrays = make_arrays(case)
    bias = jnp.repeat(jnp.asarray([-17.0, 8.0, 0.0, 0.0]), 4)
    arrays = arrays._replace(params=arrays.params._replace(bias=bias))
    got = run_case(case, arrays, "hoisted")[1].c
    with precision("float64"):
        assert_close(
            got,
            run_case(
                case,
                jax.tree.map(lambda leaf: leaf.astype("float64"), arrays),
                "reference",
            )[1].c,
            "float32",
        )
