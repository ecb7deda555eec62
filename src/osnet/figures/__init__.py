"""Figures and reports: ranked lists, curves, activation maps, embeddings, gates, the HTML report."""
