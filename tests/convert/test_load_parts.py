"""`convert.load` for dense layers, embeddings and whole models, compared with PyTorch; bad weights are refused and change nothing."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import assert_refused, assert_same, assert_subject, edited, normal

from lstm_jax import Embedding, convert
from lstm_jax.config import GenerationModelConfig, SentimentModelConfig
from lstm_jax.layers import ClassifierHead
from lstm_jax.models import CharGenerator, SentimentClassifier, functional

pytestmark = pytest.mark.usefixtures("quick_compiles")
V, E, H = 7, 3, 4


def linear(use_bias: bool = True) -> nnx.Linear:
    return nnx.Linear(E, 2, use_bias=use_bias, rngs=nnx.Rngs(0))


def head() -> ClassifierHead:
    return ClassifierHead(E, 2, rngs=nnx.Rngs(0))


def embed(kind: type = nnx.Embed) -> Any:
    return kind(V, E, rngs=nnx.Rngs(0))


def classifier(**options: Any) -> SentimentClassifier:
    return SentimentClassifier(SentimentModelConfig(**({"units": H, "embed": E} | options)), V, rngs=nnx.Rngs(params=0))


def generator(**options: Any) -> CharGenerator:
    return CharGenerator(GenerationModelConfig(**({"units": H} | options)), V, rngs=nnx.Rngs(params=0))


@pytest.mark.parametrize("make", [linear, head, lambda: linear(use_bias=False)])
@pytest.mark.parametrize("bias", [True, False])
def test_dense(torch, make, bias: bool) -> None:
    layer, theirs = make(), torch.nn.Linear(E, 2, bias=bias)
    if layer.bias is None and bias:
        with torch.no_grad():
            theirs.bias.zero_()
    x = normal(0, 5, E)
    whole = {f"fc.{name}": value for name, value in theirs.state_dict().items()} | {"rnn.bias": torch.zeros(3)}
    for weights, prefix in ((theirs, ""), (theirs.state_dict(), ""), (whole, "fc."), (torch.nn.ModuleDict({"fc": theirs}), "fc.")):
        layer = make()
        convert.load(layer, weights, prefix)
        np.testing.assert_allclose(np.asarray(layer(jnp.asarray(x))), theirs(torch.from_numpy(x)).detach().numpy(), rtol=0, atol=1e-6)
    convert.load(layer, {"kernel": normal(1, E, 2), "bias": np.zeros(2, np.float32)})
    assert_same(np.asarray(layer.kernel[...]), normal(1, E, 2))


@pytest.mark.parametrize("kind", [nnx.Embed, Embedding])
def test_embedding(torch, kind: type) -> None:
    theirs = torch.nn.Embedding(V, E, padding_idx=0)
    ids = np.arange(V)
    for weights, prefix in ((theirs, ""), (theirs.state_dict(), ""), (torch.nn.ModuleDict({"emb": theirs}).state_dict(), "emb.")):
        layer = embed(kind)
        convert.load(layer, weights, prefix)
        assert_same(np.asarray(layer(jnp.asarray(ids, jnp.int32))), theirs(torch.from_numpy(ids)).detach().numpy())
    convert.load(layer, {"embedding": normal(1, V, E)})
    assert_same(np.asarray(layer.embedding[...]), normal(1, V, E))


def random_weights(model: nnx.Module) -> dict[str, np.ndarray]:
    """Return random arrays for all parameters of a model, in a flat dict with the keys of `functional`."""
    return {name: normal(number, *array.shape) for number, (name, array) in enumerate(sorted(functional(model).params.items()))}


MODELS = {
    "sentiment": classifier,
    "two directions": lambda: classifier(layers=2, bidirectional=True),
    "gru": lambda: classifier(cell="gru"),
    "one-hot": lambda: generator(layers=2),
    "embedded": lambda: generator(embed=E),
    "tied": lambda: generator(embed=H, tied=True),
}


@pytest.mark.parametrize("kind", MODELS)
def test_model(kind: str) -> None:
    """After a flat dict is loaded, each parameter of the model equals the array of the same name."""
    model = MODELS[kind]()
    weights = random_weights(model)
    convert.load(model, weights)
    assert_same({name: np.asarray(array) for name, array in functional(model).params.items()}, weights, ordered=False)
    assert_same(np.asarray(model.head.bias[...]), weights["head/bias"])


def test_tied_model_takes_the_head_that_is_its_embedding() -> None:
    model = MODELS["tied"]()
    weights = random_weights(model)
    convert.load(model, weights | {"head/kernel": weights["embedding/embedding"].T})
    assert_same(np.asarray(model.embedding.embedding[...]), weights["embedding/embedding"])


def flat(kind: str = "sentiment", **change: Any) -> dict[str, Any]:
    return edited(random_weights(MODELS[kind]()), **change)


REFUSALS = [
    (linear, {"fc.weight": normal(0, 2, E), "fc.bias": normal(0, 2)}, "weights of an nn.Linear"),
    (linear, {"weight": normal(0, 2, E), "running_mean": normal(0, 2)}, "weights of an nn.Linear"),
    (linear, {"weight": normal(0, 2)}, "weight"),
    (linear, 3, "weights"),
    (lambda: linear(False), {"weight": normal(0, 2, E), "bias": normal(0, 2)}, "use_bias"),
    (embed, {"weight": normal(0, V + 1, E)}, "embedding"),
    (classifier, flat(head__bias=None), "head/bias"),
    (classifier, flat(head__kernel=normal(0, H + 1, 1)), "head/kernel"),
    (classifier, flat(recurrent__0__kernel=normal(0, E + 1, 4 * H)), "recurrent/0/kernel"),
    (classifier, flat("gru"), "recurrent/0/weights of an LSTM"),
    (lambda: classifier(layers=2), flat(), "layers"),
    (generator, flat("embedded"), "embedding/embedding"),
    (MODELS["tied"], flat("tied", head__kernel=normal(0, H, V)), "head/kernel"),
    (lambda: generator(embed=H), flat("tied"), "head/kernel"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("make", "weights", "subject"), REFUSALS, ids=[f"{n} {subject}" for n, (*_, subject) in enumerate(REFUSALS)])
def test_refusals(make, weights, subject: str) -> None:
    assert_refused(make(), weights, subject)


def test_other_arguments(torch) -> None:
    assert_refused(embed(), torch.nn.Embedding(V, E, max_norm=1.0), "max_norm")
    assert_refused(linear(), torch.nn.Linear, "weights")
    assert_subject(lambda: convert.load(classifier(), flat(), prefix="net."), "prefix")
