"""The sans-IO half of vpnmasq: functions of (bytes, state, now). Standard library only."""
