"""Snapshot drivers: directories, subvolumes or images that hold a root file system."""
