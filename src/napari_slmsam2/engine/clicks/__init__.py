"""Points and boxes to masks, for models that cannot read them."""
