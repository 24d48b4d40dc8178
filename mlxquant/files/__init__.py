"""What the bytes of a file mean: readers that trust nothing, writers that stream."""
