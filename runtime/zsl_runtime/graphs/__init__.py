"""What the graphs of a bundle take and give, in which precisions, and what a backend answers."""
