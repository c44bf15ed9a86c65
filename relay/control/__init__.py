"""The control API: what people and programs ask of a running daemon, as JSON over a Unix socket.

daemon      what the API needs of the daemon (a Protocol), and the shape of its answers
feed        events, one bounded queue per follower
schema      the JSON documents, vpnmasq.NAME/1
access      who asks, and what that one may do
listeners   the sockets: the Unix socket's life, the optional TCP address
requests    reading a request's body
routes      /v1/…
server      all of it put together

Nothing is imported here: the command line reads names from this package and must start quickly.
"""
