"""One file a verb: it parses, calls one library function and has the result shown."""
