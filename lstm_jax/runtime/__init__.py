"""The machine: devices and mesh, the compilation cache, interrupts and output streams."""
