"""Re-identification benchmarks: one file per layout."""
