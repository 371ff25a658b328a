"""Bundles behind servers of others: many callers at once, and classes that come and go meanwhile."""
