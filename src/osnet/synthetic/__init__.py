"""Generated people: a data set with known ground truth that needs no download."""
