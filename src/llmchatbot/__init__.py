"""A chat backend whose answers are never lost, never doubled, never orphaned."""

__version__ = "0.1.0"
SERVICE = "llmchatbot-backend"
"""What `GET /health` calls itself; clients and monitors of the first backend look for it."""
