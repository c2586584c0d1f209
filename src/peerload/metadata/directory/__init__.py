"""What this server knows of all sources, in memory."""
