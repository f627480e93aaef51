"""Training on device-resident arrays: state, steps, loop, optimisers, metrics, checkpoints, run folders."""
