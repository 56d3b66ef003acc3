"""The infinity-former (arXiv:2109.00301): its settings and its algorithm."""
