"""Kinds of work from file to file: pictures, volumes, generation."""
