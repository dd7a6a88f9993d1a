"""What a trained network learned and looks at. Every function states what it averages over."""
