"""From tensors to weights: losses, optimizers, step, trainer. Knows no data set and no network."""
