"""Files as heliostat leaves them: published whole or not at all, and who may write them."""
