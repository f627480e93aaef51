"""Functions that set up the process of a training run: devices and meshes, memory,
compilation cache, interrupts and standard streams.
"""
