"""What survives a restart of ours.

file       the state as a file: written whole, or not at all; read with suspicion
keeper     when it is written
store      sockets that systemd keeps open
beginning  where a gateway goes on from
revival    from a file to a gateway that goes on
"""
