"""Evaluation: scores of weights on data sets and benchmarks, score thresholds, comparisons of networks."""
