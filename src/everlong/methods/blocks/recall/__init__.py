"""Blocks that a question asks for: the recall index and who votes."""
