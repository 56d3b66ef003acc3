"""How fast a model reads and writes with everlong, beside other programs in the same run."""
