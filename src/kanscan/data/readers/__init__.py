"""One folder layout, one file."""
