"""Streams and their plots (matplotlib comes with the extra `report`), and the page of an evaluation."""
