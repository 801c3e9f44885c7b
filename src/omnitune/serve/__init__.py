"""Serve a retriever or a model over HTTP: embeddings as OpenAI's API has them, rerank, search and a search page."""
