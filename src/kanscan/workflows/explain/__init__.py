"""What a trained network learned: what is looked at, and the page it becomes."""
