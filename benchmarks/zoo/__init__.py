"""The parts of ``benchmarks/zoo.py``: which networks there are, what is checked of each, by whom, and the tables."""
