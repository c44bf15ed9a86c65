"""The shell of vpnmasq: every socket, clock, file and kernel table. It parses no wire bytes."""
