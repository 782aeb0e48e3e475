"""`sandbox doctor`: what this host gives, what is missing, why, and the exact fix.

Three parts: `look` (and `asking`) look at the host, pure modules turn what was seen into a report, `mend` carries out fixes. It
never needs the daemon: it is for the moment when that does not start.
"""
