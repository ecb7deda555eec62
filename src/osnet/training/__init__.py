"""Training: recipes, the training loop, and its saved state. Needs the extra ``train``."""
