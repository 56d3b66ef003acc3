"""The server: many endless streams over HTTP, in the forms that clients already speak."""
