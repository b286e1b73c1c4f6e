"""Takes noise out of machine-translated rows: by rules on text, a lexicon learned from the rows, and similarity."""
