"""Choosing a format for each tensor, and encoding rows into it."""
