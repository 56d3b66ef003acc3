"""Kernels for an NVIDIA GPU, in Triton, which comes with torch where CUDA does; nothing here is needed without one."""
