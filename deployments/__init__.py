"""Serving: the champion answers; a challenger is tried on a share of the traffic and judged by evidence."""
