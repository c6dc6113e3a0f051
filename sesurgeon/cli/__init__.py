"""The command line: what is asked for, the verbs that have it done, and how what they give is shown."""
