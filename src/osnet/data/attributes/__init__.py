"""Data sets of person attributes: images with 0/1 labels."""
