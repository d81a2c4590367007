"""What differs between the backends of Keras; today there is TensorFlow."""
