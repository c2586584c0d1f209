"""Several processes on one port: a parent that keeps them, and children that are servers like any other.

They have nothing in common but the port and the store. The parent serves nobody; it starts children, starts one again that
has ended, exchanges all of them without closing the port, and answers for them at the port for metrics.
"""
