"""The version of portside, the only place where it stands."""

__version__ = "0.1.0"
