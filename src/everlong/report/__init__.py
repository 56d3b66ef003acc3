"""Streams read with the stopwatch running, and their plots (matplotlib comes with the extra `report`)."""
