"""Weights and a benchmark -> scores, thresholds, comparisons."""
