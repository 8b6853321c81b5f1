"""A service over HTTP: text generation, translation and transcription, with dynamic batching."""
