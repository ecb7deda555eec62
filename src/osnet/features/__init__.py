"""Read and write files of embeddings, also those of other tools, and join them with labels."""
