"""Who holds which weights: records, the in-memory directory, and the backend that keeps both in any store.

Modules are imported by their own names: `records` and `publication` (what is kept, to and from the wire), `query`,
`directory` (what every server knows), `backend` (the operations).
"""
