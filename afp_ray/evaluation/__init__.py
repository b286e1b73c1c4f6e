"""Scores of a causal language model: choice tasks by log-likelihood, and how close translations lie."""
