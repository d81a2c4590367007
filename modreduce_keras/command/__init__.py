"""Command: what `modreduce` does in a terminal, with the functions that programs call.

`program` reads the flags, `commands` defines them, `pages` prints the help. They and `methods`
import neither Keras nor TensorFlow, so that help appears at once.
"""
