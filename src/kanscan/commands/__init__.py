"""What a user can ask, one function a file, the same for shell and Python; nothing heavy is imported before it runs."""
