"""The commands of `afp`: one function each, which validates, calls and shows."""
