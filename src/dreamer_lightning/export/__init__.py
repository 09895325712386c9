"""A trained agent's acting step as one file that needs nothing of this package."""
