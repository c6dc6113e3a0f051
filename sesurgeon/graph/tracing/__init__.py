"""Each module's own forward as a small fx graph, true to the call that was recorded."""
