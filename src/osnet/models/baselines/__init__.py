"""The baselines: networks that the supplement's Table A compares with OSNet."""
