"""Sockets: raw IP for data, TCP for control. They move bytes and parse none."""
