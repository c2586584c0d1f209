"""`python -m bench`."""

import signal

from bench.run import main

if __name__ == "__main__":
    # Whoever ends a run ends its servers with it, and has what was measured until then.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
