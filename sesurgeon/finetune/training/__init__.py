"""Which parameters learn, how fast, step by step."""
