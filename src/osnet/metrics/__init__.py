"""Scores: pure functions of arrays. Imports no other room."""
