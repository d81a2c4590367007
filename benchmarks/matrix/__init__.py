"""The matrix: which architectures of other libraries hold in which part of the library."""
