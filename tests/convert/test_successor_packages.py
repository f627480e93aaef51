"""Tests that the successors of the LSTM have the outputs, states and gradients of the
packages that published them.
"""

import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables import assert_close

from lstm_jax import CELLS, InputError, Recurrent, convert, unroll
from lstm_jax.cells import mlstm, rg_lru, slstm
from lstm_jax.cells.lstm import LSTMParams

COUNT = 40


@pytest.fixture
def lenient() -> Iterator[None]:
    """What the packages need, and the tests forbid elsewhere."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None,
        reason=f"{package} is not installed: pip install {package}",
    )


@needs("xlstm")
def test_xlstm(lenient: None) -> None:
    """Its state is (h, c N, N exp(-S), S) for our c and n = S + log N; without a
    convolution, and with one for the gates i and f.
    """
    torch = pytest.importorskip("torch")
    from xlstm.blocks.slstm.layer import sLSTMLayer, sLSTMLayerConfig  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(0)
    for number in range(COUNT):
        heads, size, batch, steps = (
            int(rng.integers(1, most)) for most in (5, 7, 4, 9)
        )
        config = sLSTMLayerConfig(
            embedding_dim=heads * size,
            num_heads=heads,
            conv1d_kernel_size=4 * (number % 2),
            backend="vanilla",
        )
        config.dropout, config.dtype = 0.0, "float32"
        layer = sLSTMLayer(config).eval()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.tensor(rng.normal(size=parameter.shape) * 0.7))
        x = torch.tensor(
            rng.normal(size=(batch, steps, heads * size)),
            dtype=torch.float32,
            requires_grad=True,
        )
        convolved = layer.conv_act_fn(layer.conv1d(x)) if number % 2 else x
        gates = torch.cat(
            [
                layer.fgate(convolved),
                layer.igate(convolved),
                layer.zgate(x),
                layer.ogate(x),
            ],
            dim=-1,
        )
        h, state = layer.slstm_cell(gates)
        weights = rng.normal(size=h.shape).astype(np.float32)
        (h * torch.tensor(weights)).sum().backward()
        found = LSTMParams(
            **jax.tree.map(jnp.asarray, convert.slstm_from_xlstm(layer.state_dict()))
        )
        inputs = (
            np.concatenate([convolved.detach(), x.detach()], -1)
            if number % 2
            else x.detach().numpy()
        )

        def ours(params, inputs, heads=heads):
            return unroll(slstm(heads), params, inputs)

        (outputs, final), pull = jax.vjp(ours, found, jnp.asarray(inputs))
        theirs = h.detach().numpy().transpose(0, 2, 1, 3).reshape(outputs.shape)
        assert_close(outputs, theirs, "float32")
        y, c, n, m = state.detach().numpy()
        assert_close(tuple(final), (y, c / n, m + np.log(n)), "float32")
        by_params, by_x = pull(
            (
                jnp.asarray(weights.transpose(0, 2, 1, 3).reshape(outputs.shape)),
                jax.tree.map(jnp.zeros_like, final),
            )
        )
        gradient = {
            name: parameter.grad
            for name, parameter in layer.named_parameters()
            if parameter.grad is not None
        }
        wanted = convert.slstm_from_xlstm(gradient)
        assert_close(by_params.recurrent_kernel, wanted["recurrent_kernel"], "float32")
        assert_close(by_params.bias, wanted["bias"], "float32")
        inside = np.asarray(wanted["kernel"]) != 0  # the blocks
        assert_close(by_params.kernel * inside, wanted["kernel"], "float32")
        if not number % 2:
            assert_close(by_x, x.grad.numpy(), "float32")


@needs("recurrentgemma")
def test_recurrentgemma(lenient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of a sequence and those after a reset differ: the package
    multiplies by 1 there, not by sqrt(1 - a^2).
    """
    # its annotations do not suit their newer versions
    for module, name in (("typeguard", "typechecked"), ("jaxtyping", "jaxtyped")):
        monkeypatch.setattr(
            pytest.importorskip(module),
            name,
            lambda function=None, **options: function or (lambda inner: inner),
        )
    from recurrentgemma.jax.layers import RGLRU  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(1)
    for _ in range(COUNT):
        heads, size, batch, steps = (
            int(rng.integers(1, most)) for most in (5, 7, 4, 9)
        )
        width = 2 * heads * size  # even, as the package wants it
        layer = RGLRU(width, heads, only_real=True)
        x, start = (
            jnp.asarray(rng.normal(size=shape), jnp.float32)
            for shape in ((batch, steps, width), (batch, width))
        )
        # no step is the first one
        after = jnp.broadcast_to(1 + jnp.arange(steps), (batch, steps))
        params = layer.init(jax.random.key(0), x, after)["params"]
        params = jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params
        )
        weights = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

        @jax.jit  # so that all arrays are of one class, as the package wants it
        def theirs(params, x, start, after=after, layer=layer):
            return layer.apply({"params": params}, x, after, start)

        def ours(params, x, start, heads=heads):
            cell = rg_lru(heads)
            return unroll(
                cell, params, x, cell.initial_state(*start.shape)._replace(h=start)
            )

        def converted(params):
            return CELLS["rg_lru"].params(
                **jax.tree.map(
                    jnp.asarray,
                    convert.rg_lru_from_recurrentgemma(
                        jax.tree.map(np.asarray, params)
                    ),
                )
            )

        (h, last), pull = jax.vjp(theirs, params, x, start)
        (outputs, final), pull_ours = jax.vjp(ours, converted(params), x, start)
        assert_close((outputs, final.h), (h, last), "float32")
        d_params, *d_rest = pull((weights, jnp.zeros_like(last)))
        found, *rest = pull_ours((weights, jax.tree.map(jnp.zeros_like, final)))
        wanted = converted(d_params)
        assert_close(
            (rest, found.kernel, found.bias),
            (d_rest, wanted.kernel, wanted.bias),
            "float32",
        )
        assert_close(found.decay, wanted.decay, "float32")


@needs("mlstm_kernels")
def test_mlstm_kernels(lenient: None, x64: None) -> None:
    """Its native chunkwise kernel in float64, from random states; the products and the
    gate o are PyTorch's.
    """
    torch = pytest.importorskip("torch")
    from mlstm_kernels.torch.chunkwise.native import (  # pyright: ignore[reportMissingImports]
        mlstm_chunkwise__native_autograd as chunkwise,
    )

    rng = np.random.default_rng(3)
    for _ in range(COUNT):
        heads, size, batch, chunks, length, features = (
            int(rng.integers(1, most)) for most in (5, 7, 4, 4, 9, 5)
        )
        units, steps = heads * size, chunks * length
        cell = mlstm(heads)
        like = cell.init(jax.random.key(0), features, units)
        arrays = [
            0.5 * rng.normal(size=leaf.shape)
            for leaf in (*like, *cell.initial_state(batch, units))
        ]
        x, weights = (
            rng.normal(size=(batch, steps, last)) for last in (features, units)
        )
        operands = [
            torch.tensor(array, requires_grad=True)
            for array in (*arrays[:4], *arrays[5:], x)
        ]
        kernel, bias, gate_kernel, gate_bias, c, n, m, x_in = operands
        z, of_gates = x_in @ kernel + bias, x_in @ gate_kernel + gate_bias
        q, k, v = (
            part.reshape(batch, steps, heads, size).transpose(1, 2)
            for part in z.split(units, -1)[:3]
        )
        i, f = (part.transpose(1, 2) for part in of_gates.split(heads, -1))
        h, (last_c, last_n, last_m) = chunkwise(
            q, k, v, i, f, c.reshape(batch, heads, size, size), n.reshape(batch, heads, size), m[..., None],
            return_last_states=True, eps=0.0, chunk_size=length,
        )  # fmt: skip
        outputs = torch.sigmoid(z[..., 3 * units :]) * h.transpose(1, 2).reshape(
            batch, steps, units
        )
        (outputs * torch.tensor(weights)).sum().backward()

        def ours(params, state, x, cell=cell):
            return unroll(cell, params, x, state)

        state = type(cell.initial_state(1, units))(*map(jnp.asarray, arrays[4:]))
        (found, final), pull = jax.vjp(
            ours, type(like)(*map(jnp.asarray, arrays[:4])), state, jnp.asarray(x)
        )
        theirs = [
            array.detach().numpy()
            for array in (
                outputs,
                last_c.reshape(batch, -1),
                last_n.reshape(batch, -1),
                last_m.squeeze(-1),
            )
        ]
        assert_close((found, *final[1:]), tuple(theirs), 1e-10)
        params, (_, *states), by_x = pull(
            (jnp.asarray(weights), jax.tree.map(jnp.zeros_like, final))
        )
        assert_close(
            (*params, *states, by_x),
            tuple(operand.grad.numpy() for operand in operands),
            1e-10,
        )


@needs("xlstm")
def test_mlstm_of_xlstm(lenient: None, x64: None) -> None:
    """Its cell without the normalisation of h and without the 1e-6 that it adds to the
    divisor, in float64.
    """
    torch = pytest.importorskip("torch")
    from xlstm.blocks.mlstm.layer import mLSTMLayer, mLSTMLayerConfig  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(4)
    for bias in (False, True):
        config = mLSTMLayerConfig(
            embedding_dim=8,
            num_heads=2,
            proj_factor=1.5,
            qkv_proj_blocksize=4,
            bias=bias,
            context_length=9,
        )
        layer = mLSTMLayer(config).eval().double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.tensor(rng.normal(size=parameter.shape) * 0.7))
            layer.mlstm_cell.outnorm = torch.nn.Identity()
            layer.mlstm_cell.backend_fn = partial(layer.mlstm_cell.backend_fn, eps=0.0)
            x = torch.tensor(
                rng.normal(size=(3, 9, layer.q_proj.config.in_features)),
                dtype=torch.float64,
            )
            convolved = layer.conv_act_fn(layer.conv1d(x))
            want = layer.mlstm_cell(
                layer.q_proj(convolved), layer.k_proj(convolved), layer.v_proj(x)
            )
        params = mlstm(2).params(
            **jax.tree.map(jnp.asarray, convert.mlstm_from_xlstm(layer.state_dict()))
        )
        got, _ = unroll(
            mlstm(2), params, jnp.concatenate([convolved.numpy(), x.numpy()], -1)
        )
        assert_close(got, want.numpy(), 1e-10)


@needs("memax")
def test_memax(lenient: None) -> None:
    from memax.linen.semigroups.lru import LRU  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(2)
    for _ in range(COUNT):
        units, steps = (int(rng.integers(1, most)) for most in (9, 9))
        features = units  # as its annotations want it
        layer = LRU(
            algebra=LRU.default_algebra(recurrent_size=units),
            scan=LRU.default_scan(),
            hidden_size=features,
            recurrent_size=units,
        )
        x, starts = (
            jnp.asarray(rng.normal(size=(steps, features)), jnp.float32),
            jnp.asarray(rng.random(steps) < 0.3),
        )
        carry = layer.zero_carry()
        params = layer.init(jax.random.key(0), carry, (x, starts))["params"]
        weights = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

        def theirs(params, x, starts=starts, carry=carry, layer=layer):
            return layer.apply({"params": params}, carry, (x, starts))[1]

        def ours(params, x, output, skip, starts=starts):
            h, _ = unroll(CELLS["lru"], params, x[None], resets=starts[None])
            return h[0] @ output + x * skip[None]

        cell, dense = convert.lru_from_memax(jax.tree.map(np.asarray, dict(params)))
        args = (
            CELLS["lru"].params(**jax.tree.map(jnp.asarray, cell)),
            x,
            jnp.asarray(dense["kernel"]),
            params["D"],
        )
        want, pull = jax.vjp(theirs, params, x)
        got, pull_ours = jax.vjp(ours, *args)
        assert_close(got, want, "float32")
        by_params, by_x = pull(weights)
        found, found_x, by_output, by_skip = pull_ours(weights)
        wanted, wanted_dense = convert.lru_from_memax(
            jax.tree.map(np.asarray, dict(by_params))
        )
        assert_close(
            found._asdict() | {"x": found_x, "skip": by_skip},
            wanted | {"x": by_x, "skip": by_params["D"]},
            "float32",
        )
        assert_close(by_output, wanted_dense["kernel"], "float32")


def weights_of_xlstm(
    heads: int, size: int, cuda: bool, convolved: bool
) -> dict[str, Any]:
    """Return weights with the names and shapes of an `sLSTMLayer`, and the same numbers
    for both of its backends.
    """
    rng = np.random.default_rng(3)
    found = {
        f"{gate}gate.weight": rng.normal(size=(heads, size, size)) for gate in "fizo"
    }
    kernel, bias = (
        rng.normal(size=(heads, size, 4, size)),
        rng.normal(size=(heads, 4, size)),
    )
    found["slstm_cell._recurrent_kernel_"] = (
        kernel.reshape(heads, size, -1)
        if cuda
        else kernel.transpose(0, 2, 3, 1).reshape(heads, -1, size)
    )
    found["slstm_cell._bias_"] = (
        bias.reshape(-1) if cuda else bias.transpose(1, 0, 2).reshape(-1)
    )
    return found | ({"conv1d.conv.weight": np.ones(3)} if convolved else {})


def test_layouts_of_xlstm() -> None:
    """Both backends give the same weights, which a layer loads; gates i and f read the
    convolved half of the input.
    """
    plain = convert.slstm_from_xlstm(
        weights_of_xlstm(2, 3, cuda=False, convolved=False)
    )
    np.testing.assert_equal(
        convert.slstm_from_xlstm(weights_of_xlstm(2, 3, cuda=True, convolved=False)),
        plain,
    )
    both = convert.slstm_from_xlstm(weights_of_xlstm(2, 3, cuda=True, convolved=True))[
        "kernel"
    ]
    np.testing.assert_array_equal(both[:6, :12], plain["kernel"][:, :12])
    np.testing.assert_array_equal(both[6:, 12:], plain["kernel"][:, 12:])
    assert not both[:6, 12:].any()
    assert not both[6:, :12].any()
    layer = Recurrent(6, 6, cell=slstm(2), rngs=nnx.Rngs(0))
    convert.load(layer, plain)
    np.testing.assert_allclose(
        layer.recurrent_kernel[...], plain["recurrent_kernel"], rtol=1e-6
    )


def test_refusals() -> None:
    weights = weights_of_xlstm(2, 3, cuda=False, convolved=False)
    for run, text in (
        (
            lambda: convert.slstm_from_xlstm({}),
            "weight fgate.weight: missing; give fgate.weight, .*",
        ),
        (
            lambda: convert.slstm_from_xlstm(
                weights | {"slstm_cell._recurrent_kernel_": np.ones((2, 3, 3))}
            ),
            r"slstm_cell._recurrent_kernel_: shape \(2, 3, 3\); expected "
            r"\(heads, 4D, D\) or \(heads, D, 4D\)",
        ),
        (
            lambda: convert.rg_lru_from_recurrentgemma({"a_param": np.ones(3)}),
            "weight a_gate/w: missing; give a_param, .*",
        ),
        (
            lambda: convert.rg_lru_from_recurrentgemma(
                {"a_param": np.ones(3), "a_imag_param": np.ones(3)}
            ),
            "weight a_imag_param: given; the cell rg_lru has real numbers: "
            "give those of only_real=True",
        ),
        (
            lambda: convert.lru_from_memax({"B_re": np.ones((2, 3))}),
            "weight B_im: missing; give B_re, .*",
        ),
    ):
        with pytest.raises(InputError, match=f"^{text}$"):
            run()
