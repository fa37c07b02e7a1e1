"""Send the same command elsewhere: render a value, then send it. Nothing here trains."""
