"""The version of everlong."""

__version__ = "0.1.0"
