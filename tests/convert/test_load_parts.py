"""`convert.load` for dense layers, embeddings and whole models, compared with PyTorch;
bad weights are refused and change nothing.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import assert_refused, assert_same, assert_subject, edited, normal

from lstm_jax import Embedding, convert
from lstm_jax.lab.generation.config import GenerationModelConfig
from lstm_jax.lab.generation.model import CharGenerator
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.lab.sentiment.model import SentimentClassifier
from lstm_jax.layers import ClassifierHead
from lstm_jax.training.parts import functional

V, E, H = 7, 3, 4


def linear(use_bias: bool = True) -> nnx.Linear:
    return nnx.Linear(E, 2, use_bias=use_bias, rngs=nnx.Rngs(0))


def head() -> ClassifierHead:
    return ClassifierHead(E, 2, rngs=nnx.Rngs(0))


def embed(kind: type = nnx.Embed) -> Any:
    return kind(V, E, rngs=nnx.Rngs(0))


def classifier(**options: Any) -> SentimentClassifier:
    return SentimentClassifier(
        SentimentModelConfig(**({"units": H, "embed": E} | options)),
        V,
        rngs=nnx.Rngs(params=0),
    )


def generator(**options: Any) -> CharGenerator:
    return CharGenerator(
        GenerationModelConfig(**({"units": H} | options)), V, rngs=nnx.Rngs(params=0)
    )


PARTS = [
    (linear, "Linear", (E, 2), {}),
    (head, "Linear", (E, 2), {"bias": False}),
    (lambda: linear(use_bias=False), "Linear", (E, 2), {"bias": False}),
    (embed, "Embedding", (V, E), {"padding_idx": 0}),
    (lambda: embed(Embedding), "Embedding", (V, E), {}),
]


@pytest.mark.parametrize(("make", "module", "sizes", "options"), PARTS)
def test_parts_of_a_model(torch, make, module, sizes, options):
    theirs = getattr(torch.nn, module)(*sizes, **options)
    whole = torch.nn.ModuleDict({"part": theirs, "rnn": torch.nn.LSTM(1, 1)})
    x = np.arange(V, dtype=np.int32) if module == "Embedding" else normal(0, 5, E)
    want = theirs(torch.from_numpy(x)).detach().numpy()
    for weights, prefix in (
        (theirs, ""),
        (theirs.state_dict(), ""),
        (whole, "part."),
        (whole.state_dict(), "part."),
    ):
        layer = make()
        convert.load(layer, weights, prefix)
        np.testing.assert_allclose(
            np.asarray(layer(jnp.asarray(x))), want, rtol=0, atol=1e-6
        )


def test_parts_in_our_layout():
    for layer, weights in (
        (linear(), {"kernel": normal(1, E, 2), "bias": normal(2, 2)}),
        (
            linear(use_bias=False),
            {"kernel": normal(1, E, 2), "bias": np.zeros(2, np.float32)},
        ),
        (embed(), {"embedding": normal(1, V, E)}),
    ):
        convert.load(layer, weights)
        for name, parameter in {name: getattr(layer, name) for name in weights}.items():
            assert parameter is None or np.array_equal(parameter[...], weights[name])


def random_weights(model: nnx.Module) -> dict[str, np.ndarray]:
    """Return random arrays for all parameters of a model, in a flat dict with the keys
    of `functional`.
    """
    return {
        name: normal(number, *array.shape)
        for number, (name, array) in enumerate(sorted(functional(model).params.items()))
    }


MODELS = {
    "sentiment": classifier,
    "two directions": lambda: classifier(layers=2, bidirectional=True),
    "gru": lambda: classifier(cell="gru"),
    "one-hot": lambda: generator(layers=2),
    "embedded": lambda: generator(embed=E),
    "tied": lambda: generator(embed=H, tied=True),
}


@pytest.mark.parametrize("kind", MODELS)
def test_model(kind):
    """After a flat dict is loaded, each parameter of the model equals the array of the
    same name.
    """
    model = MODELS[kind]()
    weights = random_weights(model)
    convert.load(model, weights)
    assert_same(
        {name: np.asarray(array) for name, array in functional(model).params.items()},
        weights,
        ordered=False,
    )
    assert_same(np.asarray(model.head.bias[...]), weights["head/bias"])
    if kind == "tied":
        convert.load(model, weights | {"head/kernel": weights["embedding/embedding"].T})


def flat(kind: str = "sentiment", **change: Any) -> dict[str, Any]:
    return edited(random_weights(MODELS[kind]()), **change)


REFUSALS = [
    (
        linear,
        {"fc.weight": normal(0, 2, E), "fc.bias": normal(0, 2)},
        "weights of an nn.Linear",
    ),
    (
        linear,
        {"weight": normal(0, 2, E), "running_mean": normal(0, 2)},
        "weights of an nn.Linear",
    ),
    (linear, {"weight": normal(0, 2)}, "weight"),
    (linear, 3, "weights"),
    (
        lambda: linear(False),
        {"weight": normal(0, 2, E), "bias": normal(0, 2)},
        "use_bias",
    ),
    (embed, {"weight": normal(0, V + 1, E)}, "embedding"),
    (classifier, partial(flat, head__bias=None), "head/bias"),
    (classifier, partial(flat, head__kernel=normal(0, H + 1, 1)), "head/kernel"),
    (
        classifier,
        partial(flat, recurrent__0__kernel=normal(0, E + 1, 4 * H)),
        "recurrent/0/kernel",
    ),
    (classifier, partial(flat, "gru"), "recurrent/0/weights of an LSTM"),
    (lambda: classifier(layers=2), flat, "layers"),
    (generator, partial(flat, "embedded"), "embedding/embedding"),
    (
        MODELS["tied"],
        partial(flat, "tied", head__kernel=normal(0, H, V)),
        "head/kernel",
    ),
    (lambda: generator(embed=H), partial(flat, "tied"), "head/kernel"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "weights", "subject"),
    REFUSALS,
    ids=[f"{n} {subject}" for n, (*_, subject) in enumerate(REFUSALS)],
)
def test_refusals(make, weights, subject):
    assert_refused(make(), weights() if callable(weights) else weights, subject)


def test_other_arguments(torch):
    assert_refused(embed(), torch.nn.Embedding(V, E, max_norm=1.0), "max_norm")
    assert_refused(linear(), torch.nn.Linear, "weights")
    assert_subject(lambda: convert.load(classifier(), flat(), prefix="net."), "prefix")
