"""`peerload demo`: the main job on real weights, on one machine."""
