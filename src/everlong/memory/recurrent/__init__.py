"""Memories of constant size that are trained: read with parameters of their own, folded segment by segment."""
