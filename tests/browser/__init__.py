"""The gateway as a browser meets it."""
