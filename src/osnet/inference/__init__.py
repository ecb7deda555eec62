"""From pictures to vectors: inputs, the embedder, vectors on disk."""
