"""What decides a run: the recipe, and the parts it is made of."""
