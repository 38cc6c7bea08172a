"""Files that put trimtab on a cluster, rendered from one source of versions. See README.md in this folder."""
