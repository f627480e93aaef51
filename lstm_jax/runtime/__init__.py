"""The environment of a run: processor and memory, devices and mesh, compilation cache, interrupts and standard streams."""
