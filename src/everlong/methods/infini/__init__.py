"""Infini-attention (arXiv:2404.07143): its settings and its algorithm."""
