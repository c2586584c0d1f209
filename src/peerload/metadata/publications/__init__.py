"""What workers publish, from the wire into the store and back."""
