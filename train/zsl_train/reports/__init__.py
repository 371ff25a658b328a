"""Reports for people: what a run says at its end, its page, runs side by side, and how long things take."""
