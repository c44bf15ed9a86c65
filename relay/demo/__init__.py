"""``vpnmasq demo``: the main job, on a network of its own, beside what the plain kernel does with it.

    network     the namespaces: a LAN, a place for the gateway, an internet, hosts outside
    gateways    what can stand in that place: vpnmasq, nft masquerade, nft with the PPTP helper
    hosts       the programs in the hosts' namespaces, as the demo sees them
    contest     the traffic, the same for every gateway, and what counts as right
    show        the screen: progress, the table, JSON
    story       all of it in order, and nothing left behind

Inside the hosts' namespaces:

    peer        the program: orders in, reports out, one JSON line each
    control     PPTP control connections, as client (PNS) and as server (PAC)
    line        GRE data of all calls of a host
    ppp         what the data carry: LCP echoes with a name inside
"""
