"""Movie reviews: text -> tokens -> ids -> padded rows."""
