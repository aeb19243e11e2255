"""Is it any good: protocol, arms, statistics, report."""
