"""Checks of what others may have written, before any of it is used (docs/security.md)."""
