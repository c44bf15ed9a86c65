"""ESP: which inside host an inbound packet belongs to (RFC 4303, HOWTO §6)."""
