"""GRE as PPTP uses it (RFC 2637 §4.1)."""
