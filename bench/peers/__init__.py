"""One file a peer; each is imported in a process of its own."""
