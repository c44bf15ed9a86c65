"""IKE, the key exchange of IPsec, as far as it is readable: its 28-byte header (RFC 2408, RFC 7296)."""
