"""A layer of a function, which is nothing that a config can hold."""

from keras import layers


class OfFunction(layers.Layer):
    """Applies a function to its inputs."""

    def __init__(self, function, **arguments):
        super().__init__(**arguments)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)
