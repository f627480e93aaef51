"""Table of the tests of Keras' recurrent layers, with the port of each test or the
reason why it is not ported.

The site shows it as a page.
"""

import ast
from pathlib import Path

FUSED = "about Keras' fused calls of cuDNN, which it chooses inside `Bidirectional`"
SPY = "about which function of PyTorch Keras calls on CUDA"

CELLS, BOTH, STACK, RNN = (
    "test_keras_cells.py::",
    "test_keras_bidirectional.py::",
    "test_keras_stacked_cells.py::",
    "test_keras_rnn.py::",
)
SHARED = (
    "test_basics",
    "test_correctness",
    "test_statefulness",
    "test_pass_initial_state",
    "test_masking",
)
OUTPUTS = ("test_correctness", "test_pass_initial_state", "test_masking")

SAME_NAMES = [
    ("bidirectional", BOTH, (*SHARED, "test_return_state", "test_output_shape")),
    (
        "stacked_rnn_cells",
        STACK,
        (
            "test_basics",
            "test_return_state_stacked_lstm_cell",
            "test_stacked_lstm_cell_mask",
        ),
    ),
    (
        "rnn",
        RNN,
        (
            "test_basics",
            "test_go_backwards",
            "test_masking",
            "test_stateful_batch_size_mismatch_raises",
        ),
    ),
]
STATES = ("single_state", "two_states")
EACH_CELL = (
    "test_compute_output_shape",
    "test_forward_pass",
    "test_passing_initial_state",
    "test_statefulness",
)
FUSED_KINDS = (
    "lstm_eligibility",
    "lstm_matches_unfused",
    "gru_eligibility",
    "gru_matches_unfused",
)

TESTS: list[tuple[str, str]] = [
    *(
        (
            f"{kind}_test.py::{name}",
            CELLS + ("test_outputs" if name in OUTPUTS else name),
        )
        for kind in ("lstm", "gru", "simple_rnn")
        for name in SHARED
    ),
    ("gru_test.py::test_pass_return_state", CELLS + "test_outputs"),
    (
        "gru_test.py::test_legacy_implementation_argument",
        "about an argument of old files of Keras that its deserialisation ignores",
    ),
    (
        "gru_test.py::test_stateful_with_symbolic_batch_size",
        CELLS + "test_stateful_with_the_first_call_inside_jit",
    ),
    ("gru_test.py::test_torch_cudnn_dispatch_fires", SPY),
    *(
        (f"{file}_test.py::{name}", port + name)
        for file, port, names in SAME_NAMES
        for name in names
    ),
    ("bidirectional_test.py::test_keeps_use_cudnn", BOTH + "test_keeps_its_backend"),
    *((f"bidirectional_test.py::test_fused_{kind}", FUSED) for kind in FUSED_KINDS),
    ("bidirectional_test.py::test_torch_cudnn_bidirectional_gru_dispatch_fires", SPY),
    *(
        (
            f"stacked_rnn_cells_test.py::test_correctness_{cell}_stack",
            STACK + "test_correctness",
        )
        for cell in STATES
    ),
    *(
        (
            f"stacked_rnn_cells_test.py::test_statefullness_{cell}_stack",
            STACK + "test_statefulness",
        )
        for cell in STATES
    ),
    *(
        (f"rnn_test.py::{name}_{cell}", RNN + name)
        for name in EACH_CELL
        for cell in STATES
    ),
    ("rnn_test.py::test_dynamic_shapes", RNN + "test_compute_output_shape"),
    ("rnn_test.py::test_serialization", "about the serialisation of Keras' objects"),
]
"""Pairs of strings. The first names a test of Keras. The second names its port in this
folder, or says why there is no port."""


def names_in(path: Path) -> set[str]:
    """Return the names "file::test" of the test functions and methods of a file."""
    tree = ast.parse(path.read_text())
    return {
        f"{path.name}::{node.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def is_ported(where: str) -> bool:
    """Return whether `where`, the second entry of a pair in `TESTS`, names a test. If
    not, it is the reason why there is no port.
    """
    return "::" in where


def page() -> str:
    """Return the text of the page of the site, in Markdown."""
    ported = sum(is_ported(where) for _, where in TESTS)
    lines = [
        "# Keras' own tests of its recurrent layers, here",
        "",
        "A test checks that the list is complete for the installed Keras.",
        (
            f"{ported} of {len(TESTS)} tests are ported, with Keras' numbers, and "
            "pass. The others are about Keras' internals."
        ),
        "",
        (
            "What is spelled in another way here: penalties of weights are terms "
            "of the loss, a stack of cells is a stack of layers"
        ),
        (
            "(the numbers are the same), a state is a named tuple, of which the "
            "output `h` is a part, `backend` is in the place of"
        ),
        (
            "`use_cudnn`, and `implementation` and `unroll` have no counterpart: "
            "the cases of LSTMs run on every backend that serves."
        ),
        "",
        "| test of Keras | ported as, in `tests/keras_ported/` |",
        "| --- | --- |",
    ]
    return (
        "\n".join(
            lines
            + [
                f"| `{name}` | {f'`{where}`' if is_ported(where) else where} |"
                for name, where in TESTS
            ]
        )
        + "\n"
    )
