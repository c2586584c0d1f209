"""What a server does by itself: asking the silent, forgetting the dead."""
