"""A chat backend whose answers are never lost, never doubled, never orphaned."""

__version__ = "0.1.0"
