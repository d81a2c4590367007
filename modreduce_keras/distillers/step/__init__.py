"""One step: the batch, the forward pass, the terms of the loss and what they are weighted by."""
