"""Images -> embeddings, and the attributes or classes that a head reads in the same pass."""
