"""How fast the machine is at this moment: a product of NumPy's, which does not change with what is measured.

    python -m bench.probe

Other tenants of a processor take a share of it that no load average shows. A measurement beside which this product ran slowly is noisy.
"""

import json
import time

import numpy as np

SIZE, TIMES = 384, 60
SLOWER = 0.1
"""A product this share below the fastest one known means a machine that was not all ours."""


def gflops() -> float:
    """GFLOP/s of float32 products, by the median of some."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIZE, SIZE)).astype(np.float32) for _ in range(2))
    out, took = np.empty_like(a), []
    for _ in range(TIMES + TIMES // 2):
        began = time.perf_counter()
        np.matmul(a, b, out=out)
        took.append(time.perf_counter() - began)
    return 2 * SIZE**3 / float(np.median(took[TIMES // 2 :])) / 1e9


def too_slow(probes: list[float], fastest: float) -> str:
    """What is to be said of a measurement with these probes beside it; empty if nothing."""
    if probes and min(probes) < (1 - SLOWER) * fastest:
        return f"a product ran at {min(probes):.0f} GFLOP/s beside it, {fastest:.0f} at best"
    return ""


if __name__ == "__main__":
    print(json.dumps({"probe_gflops": gflops()}))
