"""Inspection of trained models: analysis of embeddings, pages that colour a text by surprise or activation, and figures of runs."""
