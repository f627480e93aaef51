"""Whether this machine has a GPU, told without starting JAX or PyTorch, and what every process of the benchmark is set to where it has."""

from pathlib import Path

SETTINGS = {
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # float32 is float32: all are held against the reference, TF32 would not pass
    "NVIDIA_TF32_OVERRIDE": "0",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # a row's last lines start JAX beside a peer that has the memory
}


def gpu() -> bool:
    """Whether an NVIDIA GPU's device file is there."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def settings() -> dict[str, str]:
    """`SETTINGS` where there is a GPU; else nothing."""
    return SETTINGS if gpu() else {}
