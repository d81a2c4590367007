"""How gradients are applied: loss scales, and steps that are not finite."""
