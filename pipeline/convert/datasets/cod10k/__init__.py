"""COD10K: camouflaged animals."""
