"""The ground of the library: errors, checks, atomic files, the machine and meshes."""
