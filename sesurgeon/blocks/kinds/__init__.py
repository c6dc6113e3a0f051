"""One file a kind of block, each after its paper."""
