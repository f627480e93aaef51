"""Character corpora: from articles to one text, ids and windows."""
