"""`python -m bench`."""

import signal

if __name__ == "__main__":
    # Not for the processes that it starts, which read this file too.
    from bench.run import main

    # Whoever ends a run ends its servers with it, and has what was measured until then.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
