"""From names and files to objects: signatures as settings, settings as options, parts by name, the
builder, the recipes.
"""
