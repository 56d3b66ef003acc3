"""Block memory (InfLLM, arXiv:2402.04617): its settings and its algorithm."""
