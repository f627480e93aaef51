"""Training of models: compiled steps, training loop, optimisers, metrics, checkpoints
and run folders.
"""
