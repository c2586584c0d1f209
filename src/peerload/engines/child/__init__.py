"""Engines whose library cannot be trusted with the memory of the process that uses it: they work in children.

A library that cannot cancel a read, crashes with its peer, or leaks, does its work in supervised child processes that share
nothing with their owner but memfds. What the library does to the child is then the child's problem:

- abandoning a read is killing the child and waiting for its end: nothing can write into the destination after it;
- withdrawing a publication is killing the child that serves it: nobody can read it after it;
- a child that crashed, hung or leaked is replaced by a fresh one, under a new name, over the same memory.

`process` is the owner's handle on children, `forkserver` where they come from, `run` what they do, `driver` what an engine
gives them to do. `exporter` and `importer` are the two sides of such an engine, `leases` how a target finds out what the
serving child is at the moment, and asks for permission to read from it.
"""
