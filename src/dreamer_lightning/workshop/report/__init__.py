"""The story of a run as one page of HTML that opens from disk."""
