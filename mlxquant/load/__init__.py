"""Opening models: a folder, a hub id or the bundled model becomes a lazy Checkpoint."""
