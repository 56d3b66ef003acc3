"""What the trained memories share."""
