"""Arguments and options, and what they become for the library."""
