"""Stage 1, heavy and parallel: fetch, check and encode the pictures of an event; one LogRecord comes out."""
