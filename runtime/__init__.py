"""EIE's runtime: an artifact in, answers out."""
