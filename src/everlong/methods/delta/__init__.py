"""A memory by the delta rule whose keys are what stood before a token: its settings and its algorithm."""
