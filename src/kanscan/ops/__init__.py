"""Mathematics on tensors: no parameters, no classes with state. Every op has a `reference` that defines it."""
