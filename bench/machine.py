"""Speed of the machine: peak speeds of a matrix product and of a copy, on processor cores and on a GPU, and a quick probe.

    python -m bench.machine --threads 2     # peaks of 2 processor threads; set the libraries to 2 threads, too
    python -m bench.machine --gpu           # peaks of JAX's first device
    python -m bench.machine --probe

Each command prints a JSON line. A peak is the best of several tries. On a processor, the peak of the product is the best of XLA, NumPy
and, where it is installed, PyTorch, since none of the three is the fastest on every processor.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SIZE = 2048
COPIED = 64 * 2**20
"""Number of floats in the array that is copied; it is too large for any cache."""
TRIES = 6
PROBE_SIZE, PROBE_TIMES = 384, 60
TOLERATED = 0.1
"""Share by which a probe may be slower than the fastest one; beyond it, other work is assumed to have used the processor."""
GPU_SETTINGS = {
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # results in TF32 would fail the check against the float32 reference
    "NVIDIA_TF32_OVERRIDE": "0",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # a worker starts JAX last, while its peer still holds GPU memory
}


def gpu() -> bool:
    """Return whether the device file of an NVIDIA GPU exists; the check starts neither JAX nor PyTorch."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def settings() -> dict[str, str]:
    """Return the environment variables that every benchmark process gets: `GPU_SETTINGS` on a machine with a GPU, else none."""
    return GPU_SETTINGS if gpu() else {}


def _best(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of `TRIES` calls; a first call is made before and not counted."""
    seconds = []
    for _ in range(TRIES + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def gemm_gflops() -> dict[str, float]:
    """Return the peak GFLOP/s of a float32 matrix product for each library, on the number of threads that the library is set to use."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, SIZE, SIZE), dtype=np.float32)
    out, flops = np.empty_like(a), 2 * SIZE**3
    found = {"numpy": flops / _best(lambda: np.matmul(a, b, out=out)) / 1e9}
    import jax

    on_cpu = jax.device_put((a, b), jax.devices("cpu")[0])
    product = jax.jit(jax.numpy.matmul)
    found["xla"] = flops / _best(lambda: jax.block_until_ready(product(*on_cpu))) / 1e9
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return found
    x, y, z = torch.tensor(a), torch.tensor(b), torch.tensor(out)
    return found | {"torch": flops / _best(lambda: torch.mm(x, y, out=z)) / 1e9}


def copy_gbs(threads: int) -> float:
    """Return the GB/s (bytes read plus bytes written) of a copy that is divided among `threads` threads."""
    source, target = np.ones(COPIED, np.float32), np.zeros(COPIED, np.float32)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)))
    return 2 * source.nbytes / seconds / 1e9


def gpu_peaks() -> dict[str, float]:
    """Return the peak GFLOP/s of a matrix product in full float32 and the peak GB/s of a copy on JAX's first device."""
    import jax

    @jax.jit
    def product(a):
        return jax.numpy.matmul(a, a, precision="highest")

    @jax.jit
    def copy(a):
        return a + 1

    a = jax.numpy.ones((4 * SIZE, 4 * SIZE))
    flops, moved = 2 * len(a) ** 3, 2 * a.nbytes
    product_seconds, copy_seconds = (_best(lambda run=run: jax.block_until_ready(run(a))) for run in (product, copy))
    return {"gemm_gflops_gpu": flops / product_seconds / 1e9, "copy_gbs_gpu": moved / copy_seconds / 1e9}


def probe() -> float:
    """Return the median GFLOP/s of small NumPy matrix products: the speed of the machine at this moment.

    Other virtual machines on the same processor can slow this machine without any effect on its load average. If the probe is slow, a
    measurement made just before or after the probe is noisy.
    """
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((PROBE_SIZE, PROBE_SIZE)).astype(np.float32) for _ in range(2))
    out, seconds = np.empty_like(a), []
    for _ in range(PROBE_TIMES + PROBE_TIMES // 2):
        began = time.perf_counter()
        np.matmul(a, b, out=out)
        seconds.append(time.perf_counter() - began)
    return 2 * PROBE_SIZE**3 / float(np.median(seconds[PROBE_TIMES // 2 :])) / 1e9


def slow_probe(probes: list[float], fastest: float) -> str:
    """Return why a measurement is noisy if a probe made beside it was slow, else "".

    Args:
        probes: GFLOP/s of the probes made before and after the measurement.
        fastest: GFLOP/s of the fastest probe of this machine.
    """
    if probes and min(probes) < (1 - TOLERATED) * fastest:
        return f"a product ran at {min(probes):.0f} GFLOP/s beside it, {fastest:.0f} at best"
    return ""


def main() -> None:
    """Measure the peaks or the probe in this process, and print them as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--threads", type=int, help="measure the peaks of so many threads")
    group.add_argument("--gpu", action="store_true", help="measure the peaks of JAX's first device")
    group.add_argument("--probe", action="store_true", help="measure the speed of small products")
    options = parser.parse_args()
    if options.gpu:
        row = gpu_peaks()
    elif options.probe:
        row = {"probe_gflops": probe()}
    else:
        row = {"gemm_gflops": max(gemm_gflops().values()), "copy_gbs": copy_gbs(options.threads)}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
