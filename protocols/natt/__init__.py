"""IPsec in UDP, translated by address and port (RFC 3948, RFC 4787)."""
