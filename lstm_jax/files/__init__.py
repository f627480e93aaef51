"""Files read and written without losing what was there."""
