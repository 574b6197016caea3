"""Speed and memory, measured: each module prints a table and says how it was taken."""
