"""C++ code that JAX calls. It is compiled when lstm_jax is installed, or by the function `build` for the processor of this machine."""

from lstm_jax.native.library import (
    build,
    call,
    compiled_code,
    describe_library,
    loaded_library,
    threads,
    warn_if_slow,
    why_not,
    why_not_products,
)
