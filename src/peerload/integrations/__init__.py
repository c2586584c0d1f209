"""Peerload inside engines: a module for each, which only that engine's process imports."""
