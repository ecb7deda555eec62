"""Networks that map images to embeddings: OSNet, its variants and the baselines.

``registry`` has their names and builds them. ``config`` has their settings. ``counting`` computes their costs.
"""
