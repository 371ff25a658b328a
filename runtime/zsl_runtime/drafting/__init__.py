"""A row of attributes proposed from a description in words, for somebody to correct; it never becomes a class here."""
