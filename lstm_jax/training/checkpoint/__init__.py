"""Checkpoints of the training state, with detection of damage.

Orbax writes and reads the arrays, and a manifest of SHA-256 checksums shows whether the arrays are intact. A checkpoint folder holds two
entries for each checkpoint. For example, the checkpoint of step 1200 consists of these two entries:

    1200/                  arrays, one for each leaf of the state, as Orbax writes them ("1200.1/" if step 1200 was saved again)
    1200.manifest.json     manifest, written last and by one rename: a checkpoint is finished if and only if it has a manifest

The first line of a manifest is the SHA-256 of the JSON text that follows it. The JSON text holds the step, the name of the folder of
arrays, and the dict `extra` that the caller of `save` gave. It also holds a checksum of each file and a checksum of each leaf. The checksum
of a leaf covers the dtype, the shape and the bytes of the global array.

If several hosts share the folder, every process calls `save`, `restore` and `prune`, but only process 0 writes manifests and removes files.

Orbax' `CheckpointManager` is not used, for three reasons. It restores an array with a flipped bit without an error. It finalises a
checkpoint before checksums can be written beside it. It keeps the newest steps by number, so that damaged checkpoints would displace the
last intact one.
"""

from lstm_jax.training.checkpoint.store import Restored, prune, restore, save, steps

__all__ = ["Restored", "prune", "restore", "save", "steps"]
