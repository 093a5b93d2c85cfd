"""Points and boxes on the canvas."""
