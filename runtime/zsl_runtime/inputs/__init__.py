"""What there is to label: files, folders, patterns, lists, archives, rows of feature files."""
