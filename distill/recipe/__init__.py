"""The recipe: every setting of a job as one strict table.

Recipe objects stop at the verbs: inside, functions take what they need by name.
"""

from distill.recipe.load import RECIPES, load_recipe
from distill.recipe.tables import LENGTHS, CaptionsRecipe, Recipe, StageRecipe, StudentRecipe

__all__ = ["LENGTHS", "RECIPES", "CaptionsRecipe", "Recipe", "StageRecipe", "StudentRecipe", "load_recipe"]
