"""The facts of a model on disk, read without NumPy or MLX; and the search for what is wrong."""
