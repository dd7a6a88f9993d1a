"""What a command does, the same for shell and Python."""
