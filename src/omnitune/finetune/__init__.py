"""From a folder of documents to a finetuned retriever and a report of how much better it is."""
