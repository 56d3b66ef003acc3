"""What is changed in a model so that our attention runs in it."""
