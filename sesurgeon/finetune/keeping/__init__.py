"""The folder of a run: checkpoints, tables, pictures, the report."""
