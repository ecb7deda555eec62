"""Images to embeddings, attributes and classes."""
