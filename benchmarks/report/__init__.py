"""What every measurement writes: one JSON form, its statistics, and the difference of two."""
