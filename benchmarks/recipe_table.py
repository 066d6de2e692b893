"""Prints docs/recipes.md from the recipe classes, so that the page cannot drift: python benchmarks/recipe_table.py > docs/recipes.md"""

from distill.core.strict import Strict
from distill.recipe import Recipe

HEAD = """# Recipes

A recipe is TOML; unknown keys are refused and the near key is named. `--set a.b=value` overrides any key (the value is TOML, or a
bare word). Flags win over the file, `--set` over flags. `--recipe NAME` finds the shipped ones (`distill list recipes`).

Made by `benchmarks/recipe_table.py`.

| key | default | meaning |
|---|---|---|"""


def rows(model: Strict, prefix: str = "") -> list[str]:
    result = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, Strict):
            result += rows(value, f"{prefix}{name}.")
        else:
            shown = "none" if value is None else repr(value).replace("'", '"')
            result.append(f"| `{prefix}{name}` | `{shown}` | {(field.description or '').replace('|', chr(92) + '|')} |")
    return result


if __name__ == "__main__":
    print("\n".join([HEAD, *rows(Recipe())]))
