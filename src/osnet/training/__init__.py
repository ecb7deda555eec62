"""Training: recipes, the loop, the state that survives being killed. Needs the extra ``train``."""
