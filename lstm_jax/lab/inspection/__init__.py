"""Inspection of trained models: analysis of embeddings, texts coloured by surprise or
activation, and figures such as learning curves.
"""
