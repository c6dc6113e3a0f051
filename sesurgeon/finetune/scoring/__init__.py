"""What a network scores and predicts, and what its gates do."""
