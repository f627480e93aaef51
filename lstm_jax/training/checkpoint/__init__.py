"""Checkpoints that detect damage: Orbax writes and reads the arrays, and a manifest of SHA-256 checksums shows whether they are intact.

Layout of a checkpoint folder:

    1200/                  output of Orbax, one flat dict {path of the leaf: array}; "1200.1" if 1200 was saved again
    1200.manifest.json     written last, by one rename: a step is finished if and only if it has a manifest

The first line of a manifest is the SHA-256 of all that follows it: JSON with the step, the name of its folder, the `extra` of the caller,
one checksum per leaf (over dtype, shape and bytes of the global array) and one checksum per file. Several hosts share the folder: every
process calls `save`, `restore` and `prune`, but only process 0 writes manifests and removes files.

Orbax' `CheckpointManager` is not used, for three reasons: it restores a flipped bit without an error; it finalises a step before checksums
can be written beside it; it keeps the newest steps by number, so that damaged checkpoints would displace the last intact one.
"""

from lstm_jax.training.checkpoint.store import Restored, prune, restore, save, steps

__all__ = ["Restored", "prune", "restore", "save", "steps"]
