"""The version of multigrain."""

__version__ = "0.1.0"
