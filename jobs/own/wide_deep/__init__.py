"""An example of a model of one's own."""
