"""The command line: the options, the verbs, and how their results are shown."""
