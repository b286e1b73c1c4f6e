"""The first arrow: one trial from its configuration to its result, and what must hold before it starts."""
