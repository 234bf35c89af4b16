"""From names and files to objects: signatures as settings, parts by name, the builder, the
recipes.
"""
