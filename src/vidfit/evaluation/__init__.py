"""How good predictions are: streaming metrics, and the loop that feeds them."""
