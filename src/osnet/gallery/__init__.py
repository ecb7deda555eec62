"""Crops that can be searched: a folder that keeps vectors and where they came from."""

from osnet.gallery.gallery_folder import Gallery
from osnet.gallery.item_attributes import Described, describe
from osnet.gallery.stamps import Added, FileStamp, Stored
from osnet.gallery.vector_store import VectorStore, Where

__all__ = ["Added", "Described", "FileStamp", "Gallery", "Stored", "VectorStore", "Where", "describe"]
