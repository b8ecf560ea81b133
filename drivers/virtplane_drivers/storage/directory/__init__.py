"""Volumes as image files in a folder: blank, or copied from a web server whose bytes nobody trusts."""

from virtplane_drivers.storage.directory.driver import DirectoryStorage

__all__ = ["DirectoryStorage"]
