"""Volumes: formats, grids, plans, patches."""
