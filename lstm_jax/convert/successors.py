"""Weights of the packages xlstm, recurrentgemma and memax as those of the cells slstm,
mlstm, rg_lru and lru.
"""

from collections.abc import Iterable

import numpy as np
from numpy import ndarray
from scipy.linalg import block_diag

from lstm_jax.base.errors import check_class, require
from lstm_jax.base.types import GATES
from lstm_jax.convert.arrays import LAYOUTS, Arrays, Params, checked, to_numpy


def _diagonal(blocks: Iterable[ndarray]) -> ndarray:
    return np.asarray(block_diag(*blocks))


def _taken(params: Params, prefix: str, *names: str) -> list[ndarray]:
    found = []
    for name in names:
        require(
            prefix + name in params,
            f"weight {prefix}{name}",
            "missing",
            f"give {', '.join(names)}",
        )
        found.append(to_numpy(prefix + name, params[prefix + name]))
    return found


def slstm_from_xlstm(state_dict: Params, prefix: str = "") -> Arrays:
    """Convert the weights of an `sLSTMLayer` of the package xlstm to those of the cell
    `slstm(heads)`.

    If the layer has a convolution, its gates i and f read the convolved x, and the
    cell's input is (convolved x, x), (B, T, 2E). The weights of the convolution and of
    the normalisation are not among the results. As in the package, `fgate` belongs to
    i, `igate` to f.

    Args:
        state_dict: dict from the name of each weight to its array or tensor, of the
            backend vanilla or cuda.
        prefix: text that is put before the names of the layer's weights.
    """
    check_class("state dict", state_dict, dict, "give that of an sLSTMLayer")
    names = [f"{gate}gate.weight" for gate in "fizo"] + [
        "slstm_cell._recurrent_kernel_",
        "slstm_cell._bias_",
    ]
    *gates, recurrent, bias = _taken(state_dict, prefix, *names)
    i, f, g, o = (_diagonal(block.T for block in gate) for gate in gates)
    kernel = np.concatenate([i, f, g, o], axis=1)
    if any(name.startswith(f"{prefix}conv1d.") for name in state_dict):
        kernel = np.concatenate(
            [
                np.concatenate([i, f, 0 * g, 0 * o], axis=1),
                np.concatenate([0 * i, 0 * f, g, o], axis=1),
            ]
        )
    heads, first, last = recurrent.shape
    size = min(first, last)
    require(
        GATES * size == max(first, last),
        f"{prefix}{names[-2]}",
        f"shape {recurrent.shape}",
        "expected (heads, 4D, D) or (heads, D, 4D)",
    )
    # of the backend vanilla, (heads, gates, outputs, inputs); its bias is (gates,
    # heads, outputs)
    if first > last:
        blocks = recurrent.reshape(heads, GATES, size, size).transpose(3, 1, 0, 2)
    # of the backend cuda, (heads, inputs, gates, outputs); its bias is (heads, gates,
    # outputs)
    else:
        blocks = recurrent.reshape(heads, size, GATES, size).transpose(1, 2, 0, 3)
        bias = bias.reshape(heads, GATES, size).transpose(1, 0, 2)
    return checked(
        LAYOUTS["slstm"],
        {
            "kernel": kernel,
            "recurrent_kernel": blocks.reshape(size, -1),
            "bias": bias.reshape(-1),
        },
    )


def mlstm_from_xlstm(state_dict: Params, prefix: str = "") -> Arrays:
    """Convert the weights of an `mLSTMLayer` of the package xlstm to those of the cell
    `mlstm(heads)`.

    The cell's input is (convolved x, x), (B, T, 2H), after the up-projection. The bias
    of its gate o is 40, so that o is 1. The weights of the other parts of the layer are
    not among the results. The arguments are those of `slstm_from_xlstm`.
    """
    check_class("state dict", state_dict, dict, "give that of an mLSTMLayer")
    names = ["q", "k", "v"]
    q, k, v = (
        _diagonal(block.T for block in w)
        for w in _taken(state_dict, prefix, *(f"{name}_proj.weight" for name in names))
    )
    given = [name for name in names if f"{prefix}{name}_proj.bias" in state_dict]
    biases = dict(
        zip(
            given,
            _taken(state_dict, prefix, *(f"{name}_proj.bias" for name in given)),
            strict=True,
        )
    )
    none = np.zeros_like(q)
    bias = np.concatenate(
        [*(biases[name] if name in biases else none[0] for name in names), none[0] + 40]
    )
    gates = _taken(
        state_dict,
        prefix,
        *(
            f"mlstm_cell.{gate}gate.{part}"
            for part in ("weight", "bias")
            for gate in "if"
        ),
    )
    reading = np.concatenate(gates[:2]).T  # the gates read (q, k, v)
    of_vectors = np.block([[q, k, none], [none, none, v]])
    return checked(
        LAYOUTS["mlstm"],
        {
            "kernel": np.concatenate(
                [of_vectors, np.zeros_like(of_vectors[:, : len(q)])], axis=1
            ),
            "bias": bias,
            "gate_kernel": of_vectors @ reading,
            "gate_bias": np.concatenate(gates[2:]) + bias[: len(reading)] @ reading,
        },
    )


def rg_lru_from_recurrentgemma(params: Params) -> Arrays:
    """Convert the parameters of an `RGLRU` of the package recurrentgemma to those of
    the cell `rg_lru(heads)`.

    Args:
        params: {"a_param": (H,), "a_gate": {"w": (heads, H / heads, H / heads), "b":
            (heads, H / heads)}, "input_gate": the same}.
    """
    check_class("parameters", params, dict, "give those of an RGLRU")
    require(
        "a_imag_param" not in params,
        "weight a_imag_param",
        "given",
        "the cell rg_lru has real numbers: give those of only_real=True",
    )
    parts = {
        f"{gate}/{name}": array
        for gate in ("a_gate", "input_gate")
        for name, array in params.get(gate, {}).items()
    }
    decay, *gates = _taken(
        {**params, **parts},
        "",
        "a_param",
        "a_gate/w",
        "input_gate/w",
        "a_gate/b",
        "input_gate/b",
    )
    kernels = [w.transpose(1, 0, 2).reshape(w.shape[1], -1) for w in gates[:2]]
    biases = [b.reshape(-1) for b in gates[2:]]
    # log a is -softplus(a_param)
    arrays = {
        "kernel": np.concatenate(kernels, axis=1),
        "bias": np.concatenate(biases),
        "decay": -decay,
    }
    return checked(LAYOUTS["rg_lru_blocks"], arrays)


def lru_from_memax(params: Params) -> tuple[Arrays, Arrays]:
    """Convert the parameters of an `LRU` of the package memax, or of minimal-LRU, to
    those of the cell `lru` and of a dense layer.

    The dense layer has the kernel (2H, outputs) of Re(C s). The product D x is left to
    the caller.

    Args:
        params: dict with the arrays "B_re", "B_im" (H, E), "C_re", "C_im" (outputs, H),
            "nu_log", "theta_log" and "gamma_log" (H,).
    """
    check_class("parameters", params, dict, "give those of an LRU")
    b_real, b_imaginary, c_real, c_imaginary, nu, theta, gamma = _taken(
        params, "", "B_re", "B_im", "C_re", "C_im", "nu_log", "theta_log", "gamma_log"
    )
    kernel = np.concatenate([b_real.T, b_imaginary.T], axis=1)
    cell = checked(
        LAYOUTS["lru"], {"kernel": kernel, "nu": nu, "theta": theta, "gamma": gamma}
    )
    return cell, {"kernel": np.concatenate([c_real.T, -c_imaginary.T])}
