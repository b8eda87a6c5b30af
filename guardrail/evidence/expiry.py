"""When evidence ends: one comparison for everything that expires.

What expires at a time is not valid at that time any more (as JSON Web Tokens' ``exp``, RFC 7519 section 4.1.4).
Not covered: when something begins to hold, where clocks may differ (``CLOCKS_DIFFER``), and what ends first of all that
a decision rests on (``statements/earliest_expiry.py``).
"""

from __future__ import annotations

from datetime import datetime


def expired(expires: datetime, now: datetime) -> bool:
    """Whether what expires at ``expires`` is not valid any more; both aware, in any zone."""
    return not now < expires
