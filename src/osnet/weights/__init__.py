"""Weights on disk: cards, checkpoint folders, Torchreid's files, published weights, and ``create_model``."""
