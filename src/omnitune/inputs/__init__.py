"""Raw items to loaded ones: what an item is, what it costs, what it holds, and its media decoded within limits."""
