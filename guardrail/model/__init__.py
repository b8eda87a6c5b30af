"""A loaded language model as the stages see it."""
