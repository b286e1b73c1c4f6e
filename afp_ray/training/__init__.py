"""Updates of a model's weights: step, loop, checkpoint, and the exchange between workers."""
