"""Attention along the edges of a graph: the kernels, and the operators that run them."""
