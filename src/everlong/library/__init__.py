"""The kept sessions: their catalog, checkpoints, files, repair."""
