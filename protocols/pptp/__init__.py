"""PPTP control connections (RFC 2637)."""
