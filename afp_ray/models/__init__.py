"""Causal language models: what one is, how it is loaded, and the states of its layers."""
