"""Work on the store as a whole: expiry, backup, check."""
