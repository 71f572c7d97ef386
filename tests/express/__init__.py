"""Sessions shared with an Express application, an unmodified express-session with connect-redis."""
