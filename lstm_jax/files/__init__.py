"""Safe reading of data files, atomic writing (which never leaves an incomplete file),
and file locks.
"""
