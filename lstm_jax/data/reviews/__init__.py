"""Movie reviews: reading them from several sources, splitting them, and encoding them as ids and padded rows."""
