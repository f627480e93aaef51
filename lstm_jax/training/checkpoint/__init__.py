"""Checkpoints that detect damage: Orbax writes and reads the arrays, a manifest of SHA-256 sums says whether they are intact.

Layout of a checkpoint folder:

    1200/                  output of Orbax, one flat dict {path of the leaf: array}; "1200.1" if 1200 was saved again
    1200.manifest.json     written last, by one rename: a step is finished if and only if it has a manifest

The first line of a manifest is the SHA-256 of all that follows: JSON with the step, the name of its folder, the `extra` of the caller,
one sum per leaf (over dtype, shape and bytes of the global array) and one sum per file. With several hosts the folder is shared, every
process calls `save`, `restore` and `prune`, and process 0 alone writes manifests and removes files.

Orbax' `CheckpointManager` is not used: it restores a flipped bit without an error, finalises a step before sums can be written beside it,
and retains the newest steps by number, so that damaged ones would push the last good one out.
"""

from lstm_jax.training.checkpoint.store import Restored, prune, restore, save, steps

__all__ = ["Restored", "prune", "restore", "save", "steps"]
