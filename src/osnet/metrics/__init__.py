"""Evaluation metrics: ranking scores, thresholds, re-ranking, attribute scores. Pure functions of arrays."""
