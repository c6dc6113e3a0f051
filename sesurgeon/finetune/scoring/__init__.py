"""What a network scores, guesses, and multiplies by."""
