"""Everything over a whole corpus: encode it, index it, search it, mine it."""
