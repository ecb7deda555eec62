"""Generate images and videos of drawn people, with complete ground truth, for tests, demos and tutorials."""
