"""How results, events and errors look on a terminal."""
