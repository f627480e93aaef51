"""Files of the laboratory: tables, padded rows, shards, and numbers as text."""
