"""Streaming sinks: plan first, header first, tensors in row chunks behind it."""
