"""CIFAR-100 by the papers' protocol and by smaller ones: `train` is the program."""
