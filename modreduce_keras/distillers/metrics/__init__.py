"""Metrics and logs of distillers: what compiled metrics mean, and which student is the best."""
