"""Reading files of others without running code in them."""
