"""The function `unroll`, which runs a recurrent cell over a sequence, and its
implementations, the backends.

The module api.py defines `unroll`, and backends.py contains the table of the backends.
"""

from lstm_jax.recurrence.api import Remat, check_remat, unroll
from lstm_jax.recurrence.backends import (
    BACKENDS,
    DROPOUTS,
    MASKS,
    ZONEOUT,
    Backend,
    Request,
    capability_rows,
    cpu_devices,
    dropout_kinds,
    lacks,
    resolve_backend,
)
from lstm_jax.recurrence.operands import (
    LOWEST,
    REAL,
    as_array,
    as_int32,
    check_32_bits,
    check_zoneout,
    clipped_int32,
    of_kinds,
)
