"""What a stream is made of: text, tokens, characters, turns of a chat."""
