"""How fast Peerload is, row by row, and how near to what bounds it: see README.md here.

python -m bench [ROW …] [--seconds 0.8] [--rounds 3] [--out bench-results] …
"""
