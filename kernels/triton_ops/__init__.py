"""The Triton kernels behind the ops, one op a file; imported only where one runs."""
