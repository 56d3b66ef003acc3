"""One stream's keys and values, and the face that transformers sees."""
