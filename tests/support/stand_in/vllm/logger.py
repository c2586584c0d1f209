"""As vLLM does: loggers of the standard library, by name."""

import logging


def init_logger(name: str) -> logging.Logger:
    return logging.getLogger(name)
