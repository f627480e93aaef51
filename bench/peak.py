"""What the machine can do: float32 GFLOP/s of a large matrix product, and GB/s of a copy, on one and on two cores, and on its GPU.

    python -m bench peak

prints a JSON line. Each figure is the best of a few, the product that of XLA, of NumPy or of PyTorch where it is installed: none of them is
the fastest on every processor.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bench import device, timing

SIDE = 2048
COPIED = 64 * 2**20
"""Floats in the array that is copied; no cache holds it."""
TRIES = 6


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of `TRIES`, after one that is not counted."""
    seconds = []
    for _ in range(TRIES + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def gemm_gflops() -> dict[str, float]:
    """GFLOP/s by library, on as many threads as the libraries take."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, SIDE, SIDE), dtype=np.float32)
    out, flops = np.empty_like(a), 2 * SIDE**3
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
    """GB/s read and written by a copy whose parts are shared out."""
    source, target = np.ones(COPIED, np.float32), np.zeros(COPIED, np.float32)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)))
    return 2 * source.nbytes / seconds / 1e9


def on_gpu() -> dict[str, float]:
    """The same of JAX's first device, in float32 proper."""
    import jax

    @jax.jit
    def product(a):
        return jax.numpy.matmul(a, a, precision="highest")

    @jax.jit
    def copy(a):
        return a + 1

    a = jax.numpy.ones((4 * SIDE, 4 * SIDE))
    flops, moved = 2 * len(a) ** 3, 2 * a.nbytes
    by_product, by_copy = (_best(lambda run=run: jax.block_until_ready(run(a))) for run in (product, copy))
    return {"gemm_gflops_gpu": flops / by_product / 1e9, "copy_gbs_gpu": moved / by_copy / 1e9}


def measure() -> dict[str, float]:
    """Both figures on one core, on `timing.CORES` and on a GPU if there is one, each in a process of its own."""
    found = timing.run_module(["bench", "peak", "--gpu"])[-1] if device.gpu() else {}
    for cores in (1, timing.CORES):
        row = timing.run_module(["bench", "peak", "--threads", str(cores)], cores)[-1]
        found |= {f"{name}_{cores}": value for name, value in row.items()}
    return found


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="measure in this process, whose libraries have that many")
    parser.add_argument("--gpu", action="store_true", help="measure the GPU in this process")
    options = parser.parse_args()
    threads = options.threads
    if options.gpu:
        print(json.dumps(on_gpu()))
        return
    if not threads:
        print(json.dumps(measure()))
        return
    by_library = gemm_gflops()
    print(json.dumps({"gemm_gflops": max(by_library.values()), "copy_gbs": copy_gbs(threads)}))
