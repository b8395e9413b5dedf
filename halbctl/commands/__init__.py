"""One module per area; each has ``app``, and is imported when one of its commands runs."""
