"""Which cross-lingual alignment recipe works for a multilingual language model, and which part of it matters."""

__version__ = "0.1.0"
