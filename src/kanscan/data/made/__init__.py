"""Data that the package makes by itself."""
