"""How blocks of keys and values become records of bytes: what a codec is, and those that come with everlong."""
