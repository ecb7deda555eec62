"""Files of embeddings: writing and resuming, reading those of other tools, joining them with labels."""
