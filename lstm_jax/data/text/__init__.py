"""Character corpora: articles -> one text -> ids -> windows."""
