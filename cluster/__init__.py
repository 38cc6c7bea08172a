"""Files that put trimtab on a cluster, rendered from one source of versions; see README.md here."""
