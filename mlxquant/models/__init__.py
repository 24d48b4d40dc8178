"""What the names of a model's tensors mean: roles, and the architectures that mlx-lm knows."""
