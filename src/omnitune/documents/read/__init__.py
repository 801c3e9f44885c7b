"""Read documents: pages out of PDFs and images, segments out of recordings and clips."""
