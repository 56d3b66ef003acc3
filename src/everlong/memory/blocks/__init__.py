"""Block memory (docs/methods/blocks.md): what left the window, in blocks, of which a few come back for each query."""
