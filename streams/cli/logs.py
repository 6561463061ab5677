"""Logging: structlog and the standard library's loggers (Faust, aiohttp) as one stream of lines on standard error."""

import logging
import sys
from collections.abc import Sequence
from typing import Final, Literal

import structlog
from structlog.typing import Processor

_NOISY: Final = {"aiokafka": logging.CRITICAL, "pymilvus": logging.CRITICAL, "faust": logging.WARNING,
                 "mode": logging.WARNING, "httpx": logging.WARNING}  # fmt: skip


def configure_logs(level: str, style: Literal["text", "json"]) -> None:
    """Send every log line through one formatter to standard error; may be called again."""
    shared: Sequence[Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    # Tracebacks without the values of variables: they hold pictures, and may hold secrets.
    plain = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    last: Sequence[Processor] = (
        (structlog.processors.format_exc_info, structlog.processors.JSONRenderer()) if style == "json" else (plain,)
    )
    handler = _StandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.addFilter(_is_worth_a_line)
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level)
    for name, least in _NOISY.items():
        logging.getLogger(name).setLevel(max(least, logging.getLevelNamesMapping()[level]))


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Not: Faust's remarks on the life of its inner services, which it logs in the name of our modules."""
    return record.levelno > logging.INFO or not str(record.msg).startswith("[^")


class _StandardError(logging.Handler):
    """Writes to whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            self.handleError(record)
