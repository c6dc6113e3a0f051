"""What can be typed, and what the library is given for it."""
