"""Looking inside a trained network: its embedding space, its text, plots of its runs."""
