"""The command line: one file a verb, which parses, calls one library function and renders what it gives."""
