"""LSTM in float64 NumPy with its equations written out, for weights in the layout of
this project.
"""

import numpy as np
from scipy.special import expit


def lstm(params, x):
    """Return the outputs (B, T, H) of an LSTM for x (B, T, E), from a zero state.

    The columns of x W + h U + b are split into i, f, g and o. Then c' = sigmoid(f) c +
    sigmoid(i) tanh(g) and h' = sigmoid(o) tanh(c').
    """
    kernel, recurrent, bias = (
        params[name].astype(np.float64)
        for name in ("kernel", "recurrent_kernel", "bias")
    )
    h = c = np.zeros((len(x), len(recurrent)))
    outputs = []
    for step in range(x.shape[1]):
        i, f, g, o = np.split(x[:, step] @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def stack(layers, x):
    """Return the outputs of the top layer, (B, T, H) in the order of time, and its
    final h, (B, H).

    If the top layer is bidirectional, both arrays have the H columns of the forward
    direction and then those of the backward direction.
    """
    last = x[:, -1]
    for layer in layers:
        if "forward" in layer:
            ahead, back = lstm(layer["forward"], x), lstm(layer["backward"], x[:, ::-1])
            x, last = (
                np.concatenate([ahead, back[:, ::-1]], axis=-1),
                np.concatenate([ahead[:, -1], back[:, -1]], axis=-1),
            )
        else:
            x = lstm(layer, x)
            last = x[:, -1]
    return x, last


def probabilities(model, ids):
    """Return the probabilities (B, 1) of a sentiment model for token ids (B, T)."""
    count = 1 + max(
        int(path.split("/")[1]) for path in model if path.startswith("recurrent/")
    )
    layers = []
    for number in range(count):
        flat = {
            p.removeprefix(f"recurrent/{number}/"): a
            for p, a in model.items()
            if p.startswith(f"recurrent/{number}/")
        }
        directions = {p.split("/")[0] for p in flat if "/" in p}
        split = {
            direction: {
                p.split("/")[1]: a for p, a in flat.items() if p.startswith(direction)
            }
            for direction in directions
        }
        layers.append(split or flat)
    _, last = stack(layers, model["embedding/embedding"].astype(np.float64)[ids])
    return expit(last @ model["head/kernel"].astype(np.float64) + model["head/bias"])


def assert_close(got, want, tolerance: float = 1e-5) -> None:
    """Check that two arrays differ by at most `tolerance` times the largest absolute
    entry of `want`.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()
