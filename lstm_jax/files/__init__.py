"""Safe reading of data files, and atomic writing, which never leaves an incomplete file."""
