"""Numbers about models: what quantization changed."""
