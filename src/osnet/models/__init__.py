"""Networks that map images to embeddings: OSNet, its variants and baselines, their names and their costs."""
