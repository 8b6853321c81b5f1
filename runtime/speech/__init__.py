"""Speech to text: a speech bundle and an audio source in, segments of text with their times out."""
