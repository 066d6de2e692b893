"""Prints docs/recipes.md from the recipe classes, so that the page cannot drift: python benchmarks/recipe_table.py > docs/recipes.md"""

from distill.recipe import Recipe
from distill.verbs.listing import recipe_keys

HEAD = """# Recipes

A recipe is TOML; unknown keys are refused and the near key is named. `--set a.b=value` overrides any key (the value is TOML, or a
bare word). Flags win over the file, `--set` over flags. `--recipe NAME` finds the shipped ones (`distill list recipes`).

Made by `benchmarks/recipe_table.py`.

| key | default | meaning |
|---|---|---|"""


if __name__ == "__main__":
    rows = [
        f"| `{key}` | `{default}` | {what.replace('|', chr(92) + '|')} |"
        for key, default, what in recipe_keys(Recipe())
    ]
    print("\n".join([HEAD, *rows]))
