"""Examinations before going live: each part of a deployment looked at without the others, for `peerload doctor`."""
