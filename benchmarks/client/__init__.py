"""The load generator: a process of its own that opens streams, reads stamps and counts."""
