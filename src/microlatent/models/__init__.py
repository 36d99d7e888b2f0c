"""Networks with their named loss terms, one file per architecture."""
