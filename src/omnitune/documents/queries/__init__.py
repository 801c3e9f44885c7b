"""Find or write the queries of a dataset: titles, headings, captions, a model's questions."""
