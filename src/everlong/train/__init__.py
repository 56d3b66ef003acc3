"""Training: data made on the fly, tokenizers of one's own, and what turns a recipe into a model."""
