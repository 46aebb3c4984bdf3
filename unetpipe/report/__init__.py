"""The report of a run: one HTML file that opens offline, and the few lines that the terminal shows."""
