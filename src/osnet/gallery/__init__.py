"""Galleries: embeddings of crops on disk, with their sources, searched by cosine similarity."""

from osnet.gallery.gallery_folder import Gallery
from osnet.gallery.indexing import Indexed
from osnet.gallery.item_attributes import AttributeProbabilities, attribute_probabilities
from osnet.gallery.stamps import Added, FileStamp, Stored
from osnet.gallery.vector_store import Erased, VectorStore, Where

__all__ = [
    "Added",
    "AttributeProbabilities",
    "Erased",
    "FileStamp",
    "Gallery",
    "Indexed",
    "Stored",
    "VectorStore",
    "Where",
    "attribute_probabilities",
]
