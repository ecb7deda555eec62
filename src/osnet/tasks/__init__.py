"""Training tasks: re-identification, attributes, both together, and classification of images."""
