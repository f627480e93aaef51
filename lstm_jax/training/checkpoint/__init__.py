"""Checkpoints of the training state, with detection of damage.

Orbax writes and reads the arrays, one for each leaf of the state. A manifest of SHA-256 checksums shows whether the arrays are intact. A
folder can hold the checkpoints of several steps. For example, the checkpoint of step 1200 consists of these two entries of the folder:

    1200/                  folder of the arrays, as Orbax writes them; named "1200.1/" if "1200/" existed when the checkpoint was saved
    1200.manifest.json     manifest, which is written last: a checkpoint is finished if and only if it has a manifest

The first line of a manifest is the SHA-256 of the JSON text that follows it. The JSON text holds the step, the name of the folder of
arrays, and the dict `extra` that the caller of `save` gave. It also holds a checksum of each file and a checksum of each leaf. The checksum
of a leaf covers the dtype, the shape and the bytes of the global array.

If several hosts share the folder, every process calls `save`, `restore` and `prune`, but only process 0 writes manifests and removes files.

Orbax' `CheckpointManager` is not used, for three reasons. If a bit of a stored array has flipped, it restores the damaged array and raises
no error. It finalises a checkpoint before checksums can be written beside it. It keeps the newest checkpoints even if they are damaged, and
could thus remove the last intact one.
"""

from lstm_jax.training.checkpoint.store import Restored, check_state, damage, prune, restore, save, steps

__all__ = ["Restored", "check_state", "damage", "prune", "restore", "save", "steps"]
