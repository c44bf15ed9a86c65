"""DNS names that follow the public address.

    names       all [[ddns]] entries: one Updater each
    updater     looks, updates, looks again; retries; says what is wrong
    provision   what an Updater takes; with this, dnspython is read
    published   what the zone's own servers answer
    providers   dyndns2, rfc2136, url, program: one way to update a name each

HOWTO §2.9 names three risks of a name for a changing address: an answer of before the change, an update
that failed, and a name that somebody else has registered. So an update counts as done only when the zone's
own servers answer with our address, it is looked after from then on, and what is wrong is said until it is
right.
"""
