"""Data sets of person attributes: images with 0/1 labels. ``reader`` reads any of them."""
