"""One process takes over from another that goes on serving until it does.

channel    records with descriptors, over the control socket
container  whether one ends with the old process
estate     what is handed over: sockets, connections, the core's state
giving     the old process
taking     the new one

    new                                   old
    POST /v1/takeover       ────────►
                            ◄────────     hello: the locks
    …reads its configuration, loads the fast path…
    begin                   ────────►     forwards what can be forwarded, keeps everything else as it is
                            ◄────────     sockets, connections, snapshot
    …opens and sets up all that it needs…
    ready                   ────────►     stops
                            ◄────────     last: what was counted and kept meanwhile
    serves                                leaves, and undoes nothing

Until "last" is on its way the old process goes on as before if the new one ends, or takes too long.
"""
