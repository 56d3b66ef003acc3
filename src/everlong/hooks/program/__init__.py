"""A decoder's forward over one token as a flat list of operations, recorded from the model itself and run in C."""
