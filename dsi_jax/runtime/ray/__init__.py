"""Servers as actors of a Ray cluster, each a process with devices of its own.

Ray places the actors, starts them anew and tells of their deaths. Jobs and events travel beside it, as lines of text
over ZeroMQ sockets. Both packages are an extra of this one.
"""
