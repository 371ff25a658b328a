"""Classes and heads: the class table, how scores follow from features, and how rows of classes are made."""
