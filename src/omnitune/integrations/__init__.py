"""Models as the objects that other frameworks take, with their prompts: one module a framework, imported by name.

Each wraps a model, or loads one from a path, and calls `encode_query` for queries and `encode_document` for documents.
"""
