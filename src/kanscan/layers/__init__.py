"""Parameters that two networks or more share."""
