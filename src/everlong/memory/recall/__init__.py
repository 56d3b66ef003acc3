"""What comes back for a question: the keys of a few retrieval heads, and their vote (docs/methods/blocks.md)."""
