"""Networks and adapters in files of our own, and back."""
