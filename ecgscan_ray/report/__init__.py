"""What a run or a sweep looked like: one HTML file that opens offline, and the same figures as JSON."""
