"""Movie reviews: from a source to texts, ids and padded rows."""
