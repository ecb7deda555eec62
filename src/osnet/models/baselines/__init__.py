"""The networks that OSNet is compared with in the supplement's Table A."""
