"""Crops that can be searched: a folder that keeps vectors and where they came from."""

from osnet.gallery.described import Described, describe
from osnet.gallery.folder import Gallery
from osnet.gallery.protocol import VectorStore, Where
from osnet.gallery.stamps import Added, FileStamp, Stored

__all__ = ["Added", "Described", "FileStamp", "Gallery", "Stored", "VectorStore", "Where", "describe"]
