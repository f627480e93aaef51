"""Movie reviews, which are read from several sources, divided into splits, and encoded
as ids and padded rows.
"""
