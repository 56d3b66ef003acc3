"""Sessions over streams: feed, score, generate, chat, fork, rewind, save and load."""
