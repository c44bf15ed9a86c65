"""Generic forwards: a TCP or UDP port, or a whole IP protocol, to one server inside (HOWTO §3.5)."""
