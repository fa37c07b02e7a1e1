"""Everything that can be known before a worker starts. Neither Ray nor torch is loaded here."""
