"""Optimisers against those of Keras and optax, row-sparse against dense updates, and
schedules and clipping against values by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tables import BACKENDS

from lstm_jax.base.errors import InputError
from lstm_jax.lab.optimizers import keras_rmsprop, make_optimizer, make_schedule
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.optimizers import adam, clipped, keras_adam
from lstm_jax.training.row_sparse import RowOptimizer

OPTIMIZED = True
STEPS = 5


def gradients() -> list[np.ndarray]:
    """Return a gradient (64,) for each step, with magnitudes of about 1e-12 to 1e2,
    both signs and some exact zeros.
    """
    rng = np.random.default_rng(3)
    size = np.logspace(-12, 2, 64)
    made = [
        (size * rng.uniform(0.5, 2, 64) * rng.choice([-1, 1], 64)).astype(np.float32)
        for _ in range(STEPS)
    ]
    for gradient in made:
        gradient[::16] = 0
    return made


def trained(optimizer, params, gradients) -> list:
    """Return the parameters after each of the steps with the given gradients."""
    state, found = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


@pytest.mark.parametrize(
    ("ours", "theirs"), [(keras_adam, "Adam"), (keras_rmsprop, "RMSprop")]
)
def test_same_as_keras(ours, theirs, keras, peer_rules):
    with peer_rules():
        peer = getattr(keras.optimizers, theirs)(learning_rate=1e-3)
        variable = keras.Variable(np.zeros(64, np.float32))
        wanted = []
        for gradient in gradients():
            peer.apply([jnp.asarray(gradient)], [variable])
            wanted.append(np.asarray(variable.value))
    found = np.asarray(
        [
            np.zeros(64),
            *trained(ours(1e-3), jnp.zeros(64), map(jnp.asarray, gradients())),
        ]
    )
    travelled = np.abs(np.diff(found, axis=0)).cumsum(0)
    assert (np.abs(found[1:] - wanted) <= 1e-6 * travelled).all()
    assert (travelled[-1] > 0).sum() == 60


def clipped_adam(rate) -> RowOptimizer:
    return clipped(adam(rate), 1.0)


def adam_of_arrays(rate) -> RowOptimizer:
    # compiled code needs floats
    return adam(rate, jnp.float32(0.9), jnp.float32(0.999))


def parts(params, state) -> tuple:
    """Return the parameters and both moments, also if the gradient is clipped."""
    adam_state = state if isinstance(state, optax.ScaleByAdamState) else state[1]
    return params, adam_state.mu, adam_state.nu


@pytest.mark.slow(keep=["5-clipped", "64-keras_adam-float32"])
@pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="no C++ compiler to build the compiled step with"
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("columns", "form"),
    [(1, keras_adam), (5, clipped_adam), (64, keras_adam), (70, adam_of_arrays)],
)
def test_adam_by_rows(columns, form, dtype):
    """The rows of a table equal those of dense Adam whenever a batch looks them up, and
    after the last step.

    Adam by rows updates a row only when a batch looks it up, and then makes up the
    steps that the row has missed. The gradients of a row that a batch looks up several
    times are added up, also before clipping. Negative ids count from the end of the
    table, and ids outside the table are ignored.
    """
    count, steps, rng = 40, 60, np.random.default_rng(columns)
    with jax.enable_x64(dtype == "float64"):
        params = {
            name: jnp.asarray(rng.standard_normal((count, columns)), dtype)
            for name in ("table", "other")
        }
        optimizer = form(lambda step: 0.01 / 30 * (step + 1).astype(jnp.float32))
        dense, lazy = (params, optimizer.init(params)), (optimizer.init(params), params)
        update, catch_up = (
            jax.jit(optimizer.update),
            jax.jit(optimizer.catch_up, static_argnums=0),
        )
        update_rows = jax.jit(optimizer.update_rows, static_argnums=1)
        # rounding is measured by the sizes reached so far, since a moment can go
        # through 0
        reached = jax.tree.map(jnp.abs, parts(*dense))

        def check(rows):
            assert jax.tree.structure(lazy[0]) == jax.tree.structure(dense[1])
            for got, want, far in zip(
                *map(
                    jax.tree.leaves, (parts(lazy[1], lazy[0]), parts(*dense), reached)
                ),
                strict=True,
            ):
                assert (np.abs(got - want) <= steps * np.finfo(dtype).eps * far)[
                    rows
                ].all()

        # the second call begins after the first one has let all rows catch up
        for call in range(2):
            lag = optimizer.begin(params["table"], lazy[0], steps)
            for _ in range(steps // (call + 1)):
                ids = jnp.asarray(
                    np.floor(float(3 * count) ** rng.random((3, 2))) - 2 * count // 3,
                    jnp.int32,
                )
                # some gradients are as small as epsilon
                scale = 10.0 ** rng.integers(-9, 1, columns)
                rows, other = (
                    jnp.asarray(rng.standard_normal((*shape, columns)) * scale, dtype)
                    for shape in (ids.shape, (count,))
                )
                lag, *lazy = catch_up("table", ids, lag, *lazy)
                check(ids[(ids >= -count) & (ids < count)])
                lag, *lazy = update_rows(
                    {"other": other}, "table", ids, rows, lag, *lazy
                )
                gradient = {
                    "table": jnp.zeros((count, columns), dtype).at[ids].add(rows),
                    "other": other,
                }
                updates, state = update(gradient, dense[1])
                dense = optax.apply_updates(dense[0], updates), state
                moved = jax.tree.map(
                    lambda far, step: far + jnp.abs(step), reached[0], updates
                )
                reached = (
                    moved,
                    *jax.tree.map(
                        lambda far, moment: jnp.maximum(far, jnp.abs(moment)),
                        reached[1:],
                        parts(*dense)[1:],
                    ),
                )
            assert (lag.done < lag.at).any()
            lag, *lazy = catch_up("table", None, lag, *lazy)
            check(slice(None))


@pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="no C++ compiler to build the compiled step with"
)
@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [
        (keras_adam(1e-3), 1000),
        (adam(optax.linear_schedule(0.0, 1e-2, 10)), 40),
        (adam(optax.linear_schedule(0.0, -1e-2, 10)), 40),
    ],
    ids=["far behind", "from 0", "below 0"],
)
def test_rows_that_wait(optimizer, steps):
    """A catch-up on all missed steps equals dense steps with zero gradients, up to
    rounding, also if the learning rate begins at 0.
    """
    with jax.enable_x64(False):
        start = jnp.tile(jnp.array([[0.0], [1.0], [1e-8], [1e15]]), 40)
        params = dense = {"table": jnp.ones_like(start)}
        state = optimizer.init(params)._replace(
            mu={"table": start}, nu={"table": start * start}
        )
        lag = optimizer.begin(params["table"], state, 2 * steps)._replace(
            at=jnp.int32(steps)
        )
        _, caught, params = optimizer.catch_up("table", None, lag, state, params)
        update = jax.jit(optimizer.update)
        for _ in range(steps):
            updates, state = update({"table": jnp.zeros_like(start)}, state)
            dense = optax.apply_updates(dense, updates)
        np.testing.assert_allclose(params["table"], dense["table"], rtol=1e-6)
        np.testing.assert_allclose(caught.nu["table"], state.nu["table"], rtol=1e-4)
        assert (params["table"][0] == 1).all()
        assert (np.abs(params["table"][1] - 1) > 1e-3).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("scheduled", [False, True])
def test_learning_rates_of_half_precision(scheduled, dtype, peer_rules):
    """`adam` with a learning rate of half precision equals `optax.adam`, up to
    rounding.

    The bias correction must be computed in float32, because in bfloat16 a decay rate of
    0.999 is 1.
    """
    value = jnp.asarray(2.0**-7, dtype)
    given = [jnp.full(3, gradient) for gradient in (0.5, -2.0, 1.0)]
    ours, theirs = (
        form((lambda _: value) if scheduled else value) for form in (adam, optax.adam)
    )
    with peer_rules():
        want = trained(theirs, jnp.zeros(3), given)
    np.testing.assert_allclose(trained(ours, jnp.zeros(3), given), want, rtol=1e-5)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scheduled", [False, True])
def test_adam_equals_optax(scheduled, dtype, peer_rules):
    """Parameters after 20 steps equal those of `optax.adam` up to rounding, for
    gradients as small as epsilon too.
    """
    rate = (
        (lambda step: 0.01 / (1 + 0.1 * jnp.asarray(step, float)))
        if scheduled
        else 0.01
    )
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        params = {"kernel": jnp.ones((130, 130), dtype), "bias": jnp.ones(3, dtype)}
        ours, theirs = adam(rate, 0.8, 0.99, 1e-4), optax.adam(rate, 0.8, 0.99, 1e-4)
        given = []
        for _ in range(20):
            sizes = jax.tree.map(lambda p: 10.0 ** rng.integers(-6, 1, p.shape), params)
            given.append(
                jax.tree.map(
                    lambda size: jnp.asarray(
                        rng.standard_normal(size.shape) * size, dtype
                    ),
                    sizes,
                )
            )
        found = trained(ours, params, given)[-1]
        with peer_rules():
            want = trained(theirs, params, given)[-1]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                a, b, rtol=60 * np.finfo(dtype).eps
            ),
            found,
            want,
        )


# in bfloat16, 0.999 is 1
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)]
)
def test_rates_that_are_traced(dtype, tolerance, peer_rules):
    """`adam` gives the updates of `optax.adam` if rates are traced, by `vmap` or by
    `optax.inject_hyperparams`.
    """
    params = {"w": jnp.asarray([1.0, -2.0, 0.5], dtype)}

    def two_steps(optimizer):
        state = optimizer.init(params)
        _, state = optimizer.update(params, state, params)
        return optimizer.update(jax.tree.map(jnp.square, params), state, params)[0][
            "w"
        ].astype(jnp.float32)

    rates = jnp.asarray([0.5, 0.9]), jnp.asarray([0.99, 0.999])
    with peer_rules():
        for make in (
            lambda form: jax.vmap(lambda b1, b2: two_steps(form(0.01, b1=b1, b2=b2)))(
                *rates
            ),
            lambda form: jax.jit(two_steps, static_argnums=0)(
                optax.inject_hyperparams(form)(learning_rate=0.01)
            ),
        ):
            np.testing.assert_allclose(make(adam), make(optax.adam), rtol=tolerance)


@pytest.mark.parametrize("eps", [1e-8, 1e-7])
def test_half_precision_against_float32(eps):
    """A step of `adam` changes float16 parameters as it changes float32 parameters, up
    to rounding.

    A parameter with a zero gradient stays unchanged.
    """
    gradient, found = jnp.asarray([0.0, 1e-3, 0.1, 10.0]), {}
    for dtype in ("float16", "float32"):
        w = jnp.ones(4, dtype)
        optimizer = adam(0.01, eps=eps)
        update, _ = optimizer.update(gradient.astype(dtype), optimizer.init(w))
        found[dtype] = w + update
    assert found["float16"].dtype == jnp.float16
    np.testing.assert_allclose(
        found["float16"].astype(np.float32), found["float32"], rtol=1e-3
    )


RATES = [
    ("learning_rate", value)
    for value in (float("nan"), float("inf"), -1e-3, "0.1", None)
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *RATES,
        ("b1", 1.5),
        ("b2", -0.1),
        ("eps", -1e-8),
        ("b1", float("nan")),
        ("b1", 1.0),
    ],
)
@pytest.mark.parametrize("form", [adam, keras_adam])
def test_impossible_rates(form, name, value):
    with pytest.raises(InputError, match=f"^{name}: {value}; give "):
        form(**{"learning_rate": 1e-3, name: value})


@pytest.mark.parametrize(
    ("options", "gradients", "wanted"),
    [
        (
            {"optimizer": "rmsprop"},
            [[1.0, -2.0, 4.0]],
            [-0.5 / 0.1**0.5, 0.5 / 0.1**0.5, -0.5 / 0.1**0.5],
        ),
        ({"optimizer": "sgd"}, [[1.0, -2.0, 4.0]], [-0.5, 1.0, -2.0]),
        # decoupled weight decay 1e-4
        ({"optimizer": "adamw"}, [[1.0, -2.0, 4.0]], [-0.5001, 0.4999, -0.5001]),
        # steps of 0, 0.25, 0.5 and 0.5
        ({"optimizer": "sgd", "warmup_steps": 2}, [[1.0]] * 4, [-1.25]),
    ],
)
def test_names(options, gradients, wanted, peer_rules):
    with peer_rules():  # optax' Adam raises a float to an integer power
        optimizer = make_optimizer(TrainConfig(learning_rate=0.5, **options), 10)
        found = trained(optimizer, jnp.full(len(wanted), 2.0), jnp.array(gradients))[-1]
    assert np.asarray(found) - 2 == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        *(
            ({"optimizer": name}, f"optimizer: {name}")
            for name in (
                "nonsense",
                "chain",
                "scale_by_rprop",
                "lbfgs",
                "Schedule",
                "__doc__",
                "",
            )
        ),
        (
            {"optimizer": "optimistic_adam", "schedule": "cosine"},
            "optimizer: optimistic_adam; give adam, .*, or no schedule and no warm-up",
        ),
        ({"warmup_steps": 10}, "warmup_steps: 10; the run has 10 steps"),
    ],
)
@pytest.mark.filterwarnings("ignore:Specifying a key:UserWarning")
def test_what_make_optimizer_refuses(options, subject, peer_rules):
    with peer_rules(), pytest.raises(InputError, match=f"^{subject}"):
        make_optimizer(TrainConfig(**options), 10)


@pytest.mark.parametrize(
    ("schedule", "quarter", "middle"),
    [
        ("cosine", 0.1 + 0.15 * (1 + 0.5**0.5), 0.25),
        ("linear", 0.325, 0.25),
        ("exponential", 0.4**0.75 * 0.1**0.25, 0.2),
        ("constant", 0.4, 0.4),
    ],
)
@pytest.mark.parametrize("warmup", [0, 10])
def test_schedules(schedule, quarter, middle, warmup):
    final = 0.0 if schedule == "constant" else 0.1
    config = TrainConfig(
        schedule=schedule,
        learning_rate=0.4,
        final_learning_rate=final,
        warmup_steps=warmup,
    )
    rate = make_schedule(config, 100 + warmup)
    if not callable(rate):
        assert (schedule, warmup, rate) == ("constant", 0, 0.4)
        return
    if warmup:
        assert [float(rate(step)) for step in (0, 5, 10)] == pytest.approx(
            [0, 0.2, 0.4], rel=1e-6
        )
    end = 0.4 if schedule == "constant" else 0.1
    assert [float(rate(warmup + step)) for step in (0, 25, 50, 100)] == pytest.approx(
        [0.4, quarter, middle, end], rel=1e-5
    )


def test_clipping_bounds_the_global_norm():
    optimizer = make_optimizer(
        TrainConfig(optimizer="sgd", learning_rate=1.0, clip_norm=0.5), 10
    )
    for scale, wanted in ((1, (-0.3, -0.4)), (0.01, (-0.03, -0.04))):
        gradient = jnp.array(scale * 3.0), jnp.array(scale * 4.0)
        assert trained(optimizer, (jnp.zeros(()), jnp.zeros(())), [gradient])[
            0
        ] == pytest.approx(wanted, rel=1e-6)


def test_norms_to_clip_to(unchecked):
    for most in (0.0, -1.0, np.nan):
        with pytest.raises(
            InputError,
            match=f"^most: {most}; give the largest norm of the gradient, a number "
            "above 0$",
        ):
            clipped(optax.sgd(0.1), most)
    optimizer = optax.inject_hyperparams(lambda most: clipped(optax.sgd(1.0), most))(
        most=0.5
    )
    updates, _ = jax.jit(optimizer.update)(
        {"w": jnp.asarray([3.0, 4.0])}, optimizer.init({"w": jnp.zeros(2)})
    )
    np.testing.assert_allclose(updates["w"], [-0.3, -0.4], rtol=1e-6)
