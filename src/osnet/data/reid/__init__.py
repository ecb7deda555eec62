"""Readers of re-identification benchmarks, one module per data set. ``catalog`` lists them by name."""
