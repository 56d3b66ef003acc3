"""What runs a stream through the model: reading, sampling, writing."""
