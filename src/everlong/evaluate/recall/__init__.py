"""Texts with facts and the questions for them, and what of a text came back for each question."""
