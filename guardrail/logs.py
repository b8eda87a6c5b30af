"""Loggers whose lines may quote what came from outside: every one is made printable, whoever writes it out.

The filter sits on the logger itself, so that it holds inside an MLflow server, too, whose handlers are not ours.
Not covered: what MLflow, uvicorn and gunicorn log themselves.
"""

from __future__ import annotations

import logging

from guardrail.printable import block, quoted


class _Quoted(logging.Filter):
    """Renders a record's message once, in a form in which no value can begin a line of its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = quoted(record.getMessage()), None
        return True


class PrintableFormatter(logging.Formatter):
    """For a handler of ours, which prints other libraries' records as well."""

    def format(self, record: logging.LogRecord) -> str:
        """The formatted record, tracebacks included."""
        return block(super().format(record))


def logger(name: str) -> logging.Logger:
    """The logger of this name, as :func:`logging.getLogger` gives it, with what is logged through it made printable."""
    found = logging.getLogger(name)
    if not any(isinstance(one, _Quoted) for one in found.filters):
        found.addFilter(_Quoted())
    return found
