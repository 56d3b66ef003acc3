"""Metrics of benchmarks, one file for each family."""
