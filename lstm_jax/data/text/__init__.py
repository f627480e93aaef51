"""Character corpora. Articles are read from files, joined to one text, encoded as ids
and cut into windows.
"""
