"""Benchmarks, one file each in `tasks/`, on every method and beside plain transformers."""
