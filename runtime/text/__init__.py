"""Text to token ids and back: tokenizers, languages, streamed output."""
