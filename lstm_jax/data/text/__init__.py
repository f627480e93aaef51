"""Character corpora: reading articles, joining them to one text, encoding it as ids, and cutting it into windows."""
