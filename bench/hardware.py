"""Description of this machine and its speed: peaks of a matrix product and a memory
copy, or the present speed of the CPU (a probe).

A peak is the best of several tries. The peak of a matrix product is that of the fastest
library among XLA, NumPy and, if it is installed, PyTorch, because none of the three is
the fastest on every CPU.
"""

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench import cpu
from lstm_jax.base.machine import total_memory

SIZE = 2048
COPIED = 64 * 2**20
"""Number of floats in the array that is copied. The array is too large for any cache.
"""
TRIES = 6
PROBE_SIZE, PROBE_TIMES = 384, 60
GPU_SETTINGS = {
    # results in TF32 would fail the check against the float32 reference
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "NVIDIA_TF32_OVERRIDE": "0",
    # a worker starts JAX last, while the measured library still holds GPU memory
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def gpu() -> bool:
    """Return whether /dev contains the device file of an NVIDIA GPU. This check does
    not start JAX or PyTorch.
    """
    return any(Path("/dev").glob("nvidia[0-9]*"))


LSCPU = {
    "architecture": "Architecture",
    "cpus": "CPU(s)",
    "threads_per_core": "Thread(s) per core",
    "cores_per_socket": "Core(s) per socket",
    "sockets": "Socket(s)",
    "numa_nodes": "NUMA node(s)",
    "stepping": "Stepping",
    "cache_l1d": "L1d cache",
    "cache_l1i": "L1i cache",
    "cache_l2": "L2 cache",
    "cache_l3": "L3 cache",
    "hypervisor": "Hypervisor vendor",
}
"""Dict from fields of `hardware` to the names that the program lscpu gives them."""


def _printed(*command: str) -> list[str]:
    """Return the lines that a program prints, or none if it is missing."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}
        ).stdout.splitlines()
    except OSError:
        return []


@cache
def lscpu() -> dict[str, str]:
    """Return what the program lscpu prints about the CPU, or an empty dict if the
    program is missing.
    """
    pairs = (line.partition(":") for line in _printed("lscpu"))
    return {name.strip(): value.strip() for name, _, value in pairs}


@cache
def gpus() -> list[list[str]]:
    """Return the name, the memory and the driver of each NVIDIA GPU."""
    lines = (
        _printed(
            "nvidia-smi",
            "--query-gpu=name,memory.total,driver_version",
            "--format=csv,noheader",
        )
        if gpu()
        else []
    )
    return [names for line in lines if len(names := line.split(", ")) == 3]


def hardware() -> dict[str, Any]:
    """Return the properties of this machine that do not change: CPU, topology, caches,
    memory, hypervisor ("" if none) and GPUs.
    """
    found: dict[str, Any] = {"cpu": cpu()} | {
        field: lscpu().get(name, "") for field, name in LSCPU.items()
    }
    return found | {
        "memory_gib": round(total_memory() / 2**30),
        "gpus": [", ".join(names[:2]) for names in gpus()],
    }


def machine_id(properties: Mapping[str, Any] | None = None) -> str:
    """Return 12 hexadecimal digits that identify a machine, a checksum of its
    properties. Equal machines have equal ids.
    """
    text = json.dumps(hardware() if properties is None else properties, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def settings() -> dict[str, str]:
    """Return the properties of this machine that may change: governor and highest clock
    of the CPU ("" if hidden), and the GPU driver.
    """
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    found = {
        "governor": governor.read_text().strip() if governor.exists() else "",
        "max_mhz": lscpu().get("CPU max MHz", ""),
    }
    return found | {"driver": gpus()[0][2] if gpus() else ""}


def _seconds(work: Callable[[], object], count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        began = perf_counter()
        work()
        seconds.append(perf_counter() - began)
    return seconds


def _best(work: Callable[[], object]) -> float:
    """Call a function once to warm up, then time `TRIES` more calls, and return the
    shortest of these times in seconds.
    """
    return min(_seconds(work, TRIES + 1)[1:])


def gemm_gflops() -> float:
    """Return the peak speed of a float32 matrix product on the CPU in GFLOP/s, by the
    fastest library.
    """
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, SIZE, SIZE), dtype=np.float32)
    out = np.empty_like(a)
    import jax

    on_cpu = jax.device_put((a, b), jax.devices("cpu")[0])
    product = jax.jit(jax.numpy.matmul)
    products: list[Callable[[], object]] = [
        lambda: np.matmul(a, b, out=out),
        lambda: jax.block_until_ready(product(*on_cpu)),
    ]
    with contextlib.suppress(ImportError):
        import torch  # pyright: ignore[reportMissingImports]

        x, y, z = map(torch.tensor, (a, b, out))
        products.append(lambda: torch.mm(x, y, out=z))
    return 2 * SIZE**3 / min(map(_best, products)) / 1e9


def copy_gbs(threads: int) -> float:
    """Return the speed of a memory copy by `threads` threads, in GB/s. Each copied byte
    counts twice: once as read, once as written.
    """
    source, target = np.ones(COPIED, np.float32), np.zeros(COPIED, np.float32)
    parts = list(
        zip(
            np.array_split(source, threads),
            np.array_split(target, threads),
            strict=True,
        )
    )
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(
            lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))
        )
    return 2 * source.nbytes / seconds / 1e9


def cpu_peaks(threads: int) -> dict[str, float]:
    """Return the peak speeds of the CPU in this process, whose libraries use so many
    threads.
    """
    return {"gemm_gflops": gemm_gflops(), "copy_gbs": copy_gbs(threads)}


def gpu_peaks() -> dict[str, float]:
    """Return the peak speeds of JAX's first device."""
    import jax

    @jax.jit
    def product(a):
        return jax.numpy.matmul(a, a, precision="highest")

    @jax.jit
    def copy(a):
        return a + 1

    a = jax.numpy.ones((4 * SIZE, 4 * SIZE))
    flops, moved = 2 * len(a) ** 3, 2 * a.nbytes
    product_seconds, copy_seconds = (
        _best(lambda run=run: jax.block_until_ready(run(a))) for run in (product, copy)
    )
    return {
        "gemm_gflops_gpu": flops / product_seconds / 1e9,
        "copy_gbs_gpu": moved / copy_seconds / 1e9,
    }


def probe() -> float:
    """Measure the present speed of the CPU: return the median GFLOP/s of small NumPy
    matrix products.
    """
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, PROBE_SIZE, PROBE_SIZE)).astype(np.float32)
    out, warm_up = np.empty_like(a), PROBE_TIMES // 2
    seconds = _seconds(lambda: np.matmul(a, b, out=out), PROBE_TIMES + warm_up)
    return 2 * PROBE_SIZE**3 / float(np.median(seconds[warm_up:])) / 1e9
