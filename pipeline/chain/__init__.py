"""The chain as headers tell it: roots, the tip, and who may be believed about them."""
