"""Weights that do not fit, values of a wrong type and cells that a library lacks are
refused; the subject of the error names them.
"""

import numpy as np
import pytest
from flax import nnx
from made_weights import assert_subject, edited, random_lstm, random_model, random_pair

from lstm_jax import InputError, convert

pytestmark = pytest.mark.usefixtures("unchecked")

E, H, V = 3, 4, 11
LSTM, MODEL = random_lstm(E, H), random_model()
ONE_HOT, EMBEDDED = (random_model(features=features, outputs=V) for features in (0, E))
# stands for a layer or a module of any library
LAYER = nnx.Linear(E, H, rngs=nnx.Rngs(0))
GRU = [np.zeros((2, 9)), np.zeros((3, 9)), np.zeros((9,))]
LIST, CHARACTERS, EMBEDDED_LIST = (
    convert.sentiment_to_keras(random_model(("lstm", "lstm"))),
    convert.generation_to_keras(ONE_HOT),
    convert.generation_to_keras(EMBEDDED),
)
STATE = convert.lstm_to_torch([random_pair(E, H), random_pair(2 * H, H)])
KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
CHARACTER_STATE, SENTIMENT_STATE = (
    convert.generation_to_torch(EMBEDDED),
    convert.sentiment_to_torch(MODEL),
)
TREE = convert.lstm_to_linen(LSTM)
REFUSED = [
    # layers and Keras
    (convert.lstm_to_keras, edited(LSTM, kernel=np.zeros((E, 17))), "kernel"),
    (convert.lstm_to_keras, edited(LSTM, kernel=np.zeros((0, 16))), "kernel"),
    (convert.lstm_to_keras, edited(LSTM, bias=[[1.0], [2.0, 3.0]]), "bias"),
    (convert.lstm_to_keras, edited(LSTM, gain=np.zeros(16)), "weights of an LSTM"),
    (convert.lstm_from_keras, np.array(1.0), "weights of an LSTM"),
    (lambda weights: convert.cell_from_keras("gru", weights), GRU, "bias"),
    (lambda weights: convert.cell_from_keras("lstm_projected", weights), GRU, "cell"),
    (convert.bidirectional_from_keras, 3, "Bidirectional weights"),
    (
        convert.bidirectional_from_keras,
        convert.lstm_to_keras(LSTM)[:2] + convert.lstm_to_keras(LSTM),
        "Bidirectional weights",
    ),
    (
        convert.bidirectional_from_keras,
        convert.lstm_to_keras(LSTM) + convert.lstm_to_keras(random_lstm(2, H)),
        "backward/kernel",
    ),
    (convert.bidirectional_to_keras, LSTM, "bidirectional layer"),
    (
        convert.bidirectional_to_keras,
        {"forward": 1, "backward": 2},
        "recurrent/0/forward/weights of an LSTM",
    ),
    # lists of a Keras model
    (convert.sentiment_from_keras, LIST[:2] + LIST[3:], "model weights"),
    (
        convert.generation_from_keras,
        [*CHARACTERS[:1], np.zeros((H, 15)), *CHARACTERS[2:]],
        "LSTM 0 from weights[0]: recurrent_kernel",
    ),
    (
        convert.generation_from_keras,
        [np.zeros((V + 1, E)), *EMBEDDED_LIST[1:]],
        "head/kernel",
    ),
    (
        convert.generation_from_keras,
        [*CHARACTERS[:3] * 2, np.zeros((2 * H, V)), np.zeros(V)],
        "recurrent/ layers [0]",
    ),
    # flat dicts
    (convert.sentiment_to_keras, edited(MODEL, head__bias=None), "head/bias"),
    (
        convert.sentiment_to_keras,
        edited(MODEL, head__gain=np.zeros(1)),
        "key of a sentiment model",
    ),
    (
        convert.sentiment_to_keras,
        edited(MODEL, recurrent__2__kernel=LSTM["kernel"]),
        "recurrent/ layers",
    ),
    (
        convert.sentiment_to_keras,
        edited(MODEL, recurrent__0__forward__kernel=LSTM["kernel"]),
        "recurrent/0/bidirectional layer",
    ),
    (convert.generation_to_keras, edited(ONE_HOT, head__kernel=None), "head/kernel"),
    (
        convert.generation_to_keras,
        edited(EMBEDDED, head__kernel=None),
        "head/, tied to the embedding: kernel",
    ),
    (
        convert.generation_to_torch,
        random_model(("bidirectional",), outputs=V),
        "recurrent/ layers [0]",
    ),
    (
        lambda params: convert.write_keras_weights("a.weights.h5", params),
        LAYER,
        "params",
    ),
    (
        lambda params: convert.write_keras_weights("a.h5", params),
        MODEL,
        "Keras weights",
    ),
    # PyTorch
    (
        convert.lstm_from_torch,
        edited(STATE, weight_hr_l0=np.zeros((2, H))),
        "*_l0: weights of an LSTM",
    ),
    (
        convert.lstm_from_torch,
        edited(STATE, bias_hh_l1=None),
        "*_l1: weights of an LSTM",
    ),
    (convert.lstm_from_torch, STATE | {"bias_hh_l0": None}, "*_l0: bias_hh"),
    (
        convert.lstm_from_torch,
        edited(STATE, weight_ih_l1_reverse=np.zeros((16, 4))),
        "recurrent/1/backward/kernel",
    ),
    (convert.lstm_from_torch, edited(STATE, weight_ih_l0="text"), "*_l0: weight_ih"),
    (
        convert.lstm_from_torch,
        edited(STATE, **{f"{kind}_l1_reverse": None for kind in KINDS}),
        "shapes of the layers' recurrent kernels",
    ),
    (
        convert.lstm_from_torch,
        edited(
            STATE,
            **{f"{kind}_l0{way}": None for way in ("", "_reverse") for kind in KINDS},
        ),
        "name in the state dict of an nn.LSTM",
    ),
    (lambda state: convert.cell_from_torch("lstm", state), STATE, "state dict"),
    (
        convert.lstm_to_torch,
        [random_lstm(2, 3), random_lstm(3, 4)],
        "shapes of the layers' recurrent kernels",
    ),
    (
        lambda layers: convert.layers_to_torch("lstm", layers, bias=False),
        [LSTM],
        "bias_ih_l0",
    ),
    (
        lambda layers: convert.layers_to_torch("gru_reset_before", layers),
        [LSTM],
        "cell",
    ),
    (convert.sentiment_from_torch, LAYER, "state dict"),
    (
        convert.sentiment_from_torch,
        SENTIMENT_STATE | {"norm.weight": np.zeros(3)},
        "name in the state dict",
    ),
    (
        convert.generation_from_torch,
        edited(CHARACTER_STATE, **{"fc.weight": None}),
        "fc.weights of an nn.Linear",
    ),
    (convert.read_torch_file, "model.pt", "PyTorch weights"),
    (
        convert.read_torch_file,
        "absent.safetensors",
        "PyTorch weights absent.safetensors",
    ),
    # Flax
    (convert.lstm_from_linen, edited(TREE, hg=None), "weights of a Flax LSTM cell"),
    (convert.lstm_from_linen, TREE | {"ig": {"kernel": np.zeros((E, 5))}}, "ig/kernel"),
    (convert.lstm_from_linen, LAYER, "parameter tree"),
]


@pytest.mark.parametrize(
    ("call", "given", "subject"),
    REFUSED,
    ids=[f"{n} {subject}" for n, (*_, subject) in enumerate(REFUSED)],
)
def test_refused(call, given, subject):
    assert_subject(lambda: call(given), subject)


def test_a_projection_names_its_cell():
    with pytest.raises(InputError, match=r"layers_from_torch\('lstm_projected'"):
        convert.lstm_from_torch(STATE | {"weight_hr_l0": np.zeros((2, H))})
