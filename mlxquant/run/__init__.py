"""Running a model: load, generate, chat; the architectures and the loop are mlx-lm's."""
