"""Where models come from by name, and which source a file of weights may have."""
