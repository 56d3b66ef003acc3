"""Transformer-XL (arXiv:1901.02860): its settings and its algorithm."""
